// Package embedded is what the drivers that live inside the process share:
// memkv and boltkv. It has what a server would otherwise do.
//
//   - [Step] is the meaning of every write: checks, conditions, revisions,
//     expiry and the events that follow, over a [Table] that a driver keeps.
//   - [Feed] holds the latest commits in a ring with a byte bound, and hands
//     them to watchers, which pull.
//   - [Alarm] is the one timer that expiry needs.
//   - [Locks] are the queues of contenders.
//   - [Range] is how a sorted keyspace is walked for a List.
package embedded
