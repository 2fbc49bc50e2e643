package backend

import (
	"errors"
	"fmt"
	"time"
)

// MaxTxnOps is how many operations, checks and writes together, every store
// takes in one transaction (R27). A driver's bookkeeping does not count.
const MaxTxnOps = 64

// Condition is what must hold of a key for a write to happen.
type Condition uint8

const (
	Always     Condition = iota // no condition
	Absent                      // there is no such key
	Present                     // there is such a key
	AtRevision                  // the key's revision is the given one
	LockHeld                    // a lock's contender still holds; only in a Check made by Contender.Check
)

func (c Condition) String() string {
	switch c {
	case Always:
		return "always"
	case Absent:
		return "absent"
	case Present:
		return "present"
	case AtRevision:
		return "at revision"
	case LockHeld:
		return "lock held"
	}
	return fmt.Sprintf("Condition(%d)", uint8(c))
}

// Check is one condition of a transaction.
type Check struct {
	If       Condition
	Key      string   // a key or, for LockHeld, the lock's name
	Revision Revision // for AtRevision
	Holder   string   // for LockHeld: which contender, in the driver's own terms
}

// Write is one change of a transaction.
type Write struct {
	Key     string
	Delete  bool          // remove the key; Value and TTL are unset
	Value   []byte        // otherwise: the new value
	TTL     time.Duration // as in PutOptions
	KeepTTL bool          // as in PutOptions: with an AtRevision check of the same key
}

// Txn is a set of checks and writes that are applied together or not at all.
// No key stands in two checks or in two writes; a key MAY stand in one of
// each. There is at least one check or write and at most MaxTxnOps together.
type Txn struct {
	Checks []Check
	Writes []Write
}

// TxnResult is what a transaction did.
type TxnResult struct {
	Revision Revision // shared by all writes; 0 if there was none
	Entries  []Entry  // one for each write, in order, without values; Revision 0 for a delete
}

// CheckError tells which check of a transaction did not hold. Nothing was
// written. Of several it is any one, but a LockHeld that does not hold MUST be
// told before all others: a former holder has to learn that it is one.
type CheckError struct {
	Index int    // in Txn.Checks
	Key   string // of that check
	Err   error  // ErrExists (Absent), ErrNotFound (Present), ErrConflict (AtRevision), ErrLockLost (LockHeld)
}

func (e *CheckError) Error() string {
	what := "key"
	if errors.Is(e.Err, ErrLockLost) {
		what = "lock"
	}
	return fmt.Sprintf("check of %s %q failed: %v", what, e.Key, e.Err)
}

// Unwrap returns the reason.
func (e *CheckError) Unwrap() error { return e.Err }

// Failed is the error of a check that did not hold, as CheckError.Err has it.
func (c Condition) Failed() error {
	switch c {
	case Absent:
		return ErrExists
	case Present:
		return ErrNotFound
	case LockHeld:
		return ErrLockLost
	}
	return ErrConflict
}
