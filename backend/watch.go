package backend

import (
	"context"
	"fmt"
	"time"
)

// Kind says what an event tells.
type Kind uint8

const (
	Created  Kind = 1 + iota // the key was absent before
	Updated                  // the key was there and got a new revision
	Deleted                  // the key went: deleted or expired
	Existing                 // the key is there as the watch begins
	Synced                   // the entries (after Resynced: the differences) are complete; no key
	Resynced                 // events were missed; differences follow, then Synced; no key
	Progress                 // the answer to Watch.Sync: everything up to here was delivered; no key
)

func (k Kind) String() string {
	switch k {
	case Created:
		return "created"
	case Updated:
		return "updated"
	case Deleted:
		return "deleted"
	case Existing:
		return "existing"
	case Synced:
		return "synced"
	case Resynced:
		return "resynced"
	case Progress:
		return "progress"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Token is a point in a watch's stream at which WatchOptions.Resume continues,
// in another process too. It is printable, and bound to the store's epoch,
// root and prefix; see [Position] for the form that drivers share.
type Token string

// Event is one thing that a watch has to tell.
type Event struct {
	Kind Kind
	// Entry is the key after the change. A delete has the Key, no Value, and
	// the store's revision of the delete, or 0 where the store does not tell:
	// never an invented one. Synced, Resynced and Progress have no key; their
	// Revision, on a Lossless store, is the one up to which the stream is
	// complete: no event at or below it follows. Elsewhere Progress may have
	// one that the stream is no older than: every key that was made up to
	// there, and is there, it has told of, or found when it was opened. With 0,
	// which says nothing, package kv reads more keys twice for a snapshot.
	Entry
	// Prev is the key before the change, for Updated and Deleted, if
	// WatchOptions.Prev asked for it and the store still has it.
	Prev *Entry
	// Token resumes after this event; empty where Resumable is unset.
	Token Token
}

// WatchOptions select what a watch delivers.
type WatchOptions struct {
	Key      bool  // watch the one key, not what is below it
	Snapshot bool  // deliver Existing for what is there, then Synced, then changes, no gap and no repeat between
	Prev     bool  // fill Event.Prev
	Resume   Token // continue after this point; not with Snapshot
}

// Watch is an open event stream. Next is for one goroutine at a time; the
// other methods may be called beside it.
//
// The stream survives connection loss, leader change, session expiry and
// restarts of the server, with backoff and without losing a change (R20): it
// resumes or, on a store that is not Lossless, lists again and delivers
// Resynced, the differences (deletes included) and Synced. A Lossless driver
// whose history is gone ends the stream with ErrHistoryLost instead; package
// kv repairs snapshot watches.
//
// On a Lossless store every revision is delivered, in order. Elsewhere changes
// of one key may be merged into one event, but its last state always arrives,
// and a key that was deleted and recreated meanwhile gives Deleted and Created
// (R18, R22).
//
// What is buffered for a reader that does not come is bounded in bytes (R23):
// beyond, the driver falls back to its resume point or, where there is none,
// lists again. A slow reader never blocks the store or another reader.
type Watch interface {
	// Next waits for the next event. An error of ctx ends this call only;
	// any other error is final and is returned again by every later call:
	// the stream context's error, ErrHistoryLost, ErrClosed after Close, or
	// ErrPermission. Unreachable servers are not an error: see Health.
	Next(ctx context.Context) (Event, error)
	// Sync asks for a Progress event after the events of all writes that
	// were complete, or seen by a read that was complete, when Sync was
	// called. It MAY return before the event
	// arrives, and the request survives reconnects. One event answers all
	// calls that were made before it; no Progress event comes unasked,
	// because package kv takes the next one for the answer. On a Resumable
	// store it has a Token.
	Sync(ctx context.Context) error
	// Health tells how the stream is doing.
	Health() Health
	// Close ends the stream and waits for what is behind it. It is idempotent.
	Close() error
}

// Health is what a watch knows of its connection.
type Health struct {
	LastContact       time.Time // when the server was last heard
	DisconnectedSince time.Time // zero while connected
}
