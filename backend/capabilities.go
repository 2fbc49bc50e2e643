package backend

import "time"

// Clock says whose clock decides when an entry expires.
type Clock uint8

const (
	ServerClock Clock = iota // the store's own
	ClientClock              // the clients', which must agree within the driver's skew option
)

func (c Clock) String() string {
	if c == ClientClock {
		return "client"
	}
	return "server"
}

// Capabilities is what one store can promise, where stores differ (R42). It
// covers the store as it was opened, options included.
type Capabilities struct {
	Name string // of the store: "etcd", "consul", "zookeeper", "redis", "bolt", "memory"

	// MaxKeyBytes bounds a canonical key, MaxValueBytes a value, MaxTxnBytes
	// the keys and values of one transaction together, in bytes. Escaping
	// and the root count too: the driver checks its native encoding and
	// answers ErrInvalidKey or ErrTooLarge before anything is sent.
	MaxKeyBytes, MaxValueBytes, MaxTxnBytes int

	// MinTTL is the shortest TTL that is kept to. An entry is never gone
	// before its TTL on TTLClock, and is invisible TTLSlack after it.
	MinTTL, TTLSlack time.Duration
	TTLClock         Clock
	// MinLease is the shortest lease of Register and Contend; shorter ones
	// are raised to it.
	MinLease time.Duration

	LinearizableReads  bool // a read without Stale reflects every write that was complete before
	Lossless           bool // watches deliver every revision, in one order (R22)
	Resumable          bool // events carry tokens that Watch resumes from (R21)
	SnapshotList       bool // a List is one snapshot (R16)
	AtomicDeletePrefix bool // DeletePrefix is one step
	ForeignCAS         bool // conditional writes detect every write by other programs (R11)
	ForeignEvents      bool // writes by other programs make events by themselves (R26)
	FairLock           bool // contenders are admitted in order of arrival (R30)
	CrossProcessLock   bool // locks exclude other processes (R34)
	DurableFence       bool // tokens grow across every crash and restart of the server (R31)
}
