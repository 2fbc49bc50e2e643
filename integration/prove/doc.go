// Package prove checks what the library promises on real servers while things break.
//
// A [Round] lets several clients work on few keys of one [Target] (a store, single or as a cluster) while a [Fault] is
// injected again and again. Everything is recorded: operations, what watches told, who held locks. Then it is judged:
//
//   - operations by porcupine, against a model of a key with revisions, and for transactions against one of the whole store.
//     An operation whose outcome is unknown may take effect at any time after its call, or never; one that failed with
//     kv.ErrUnavailable must never.
//     A history for which no answer is found in time is told as not checked, which is no violation;
//   - revisions: their order is the order of time, and nothing has two;
//   - watches by the validator of the conformance suite; where a watch is lossless, the history has to be linearizable in
//     just the order that the watch told;
//   - locks by a register that takes fenced writes only.
//
// What a fault does is chosen by a seed, which is printed. How threads and packets interleave is not, so a seed replays
// the faults and the choices of the clients, not the nanoseconds.
package prove
