// Package backend is the contract between package kv and the stores: what the
// author of a driver implements, and nothing that a user of kv has to know.
//
// A driver is a [Store]: bytes under canonical keys, revisions, watches,
// transactions, leases and one queue primitive for locks. The doc comments of
// this package are normative; MUST, MUST NOT and MAY are meant literally, and
// package backendtest is the same text as a test suite. Rule numbers (R1, R2,
// …) refer to docs/semantics.md, which states the guarantees that users get.
//
// # What package kv does, so that a driver does not
//
//   - Keys: a driver only ever sees canonical keys and prefixes (non-empty
//     UTF-8 segments joined by single slashes, no NUL, none leading or
//     trailing), already joined with the user's prefix and no longer than
//     [Capabilities].MaxKeyBytes. The driver owns the native root below which
//     it keeps them, and the escaping that its store needs.
//   - Options: what contradicts or lies below a limit is refused before the
//     driver is called.
//   - Errors: a driver returns errors that match a sentinel of this package
//     and the cause; kv adds operation, store and key.
//   - Retrying of reads, sharing of watches between subscribers, repairing a
//     snapshot watch whose history is lost, renewal loops of leases and locks.
//
// # What every driver does
//
// All methods are safe for concurrent use. Every method that takes a context
// MUST return within 100 ms of the context's end, with an error that matches
// both ctx.Err() and context.Cause(ctx) (see [ContextError]), whether the
// client library honours contexts or not (R38). Work that is left behind by
// an abandoned call is the driver's to bound and to clean up, and Close waits
// for it.
//
// A value handed to a driver belongs to the caller: the driver MUST NOT keep
// or change it once the call has returned, an abandoned call included. A value
// that a driver hands out belongs to the receiver and aliases no memory of the
// store's (R8). nil and empty are one value.
//
// Bookkeeping lives beside the values, in a sibling of the root that no
// canonical key encodes to, never inside them (R6, R7).
package backend
