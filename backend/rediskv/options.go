package rediskv

import (
	"log/slog"
	"time"
)

// Options configure a Store. The zero value works.
type Options struct {
	// Root is the native name that keys lie below: with the root "demo" the key "a/b" is "demo/a/b" in Redis. A leading
	// slash is the user's choice. "" puts keys at the top level of the database. On Redis Cluster the root must have a
	// hash tag, as in "{demo}", so that all its keys are in one slot.
	Root string
	// Meta is the native name of the bookkeeping, the default being the root's with "=kv" after it. On Redis Cluster it
	// must have the root's hash tag.
	Meta string
	// Logger hears of what is not an error of any call. nil: nothing is logged.
	Logger *slog.Logger
	// DialTimeout is how long a request may take to get on its way to the server before the answer is ErrUnavailable.
	// It bounds the whole first contact too, which all first calls share.
	// 0 means 5 s.
	DialTimeout time.Duration
	// WatchBuffer is how many bytes of events and entries one watch or list holds at a time, more or less: at least one
	// event. 0 means 4 MiB.
	WatchBuffer int
	// History is how much of the log of changes is kept, for watches that fall behind or resume. All clients of one root
	// should agree: the log is cut to what the last writer wants.
	History History
	// Dialer is what the client dials with, if it does so with one of this package. nil: it does not.
	Dialer *Dialer
	// MaxValueBytes bounds a value, and the keys and values of a transaction together. 0 means 512 MiB, the server's
	// proto-max-bulk-len.
	MaxValueBytes int
}

// History bounds the log of changes. Whichever limit is reached first counts; the newest change is always kept.
type History struct {
	Entries int           // changes; 0 means 100,000
	Age     time.Duration // 0 means one hour; older changes go with the next writes
	Bytes   int           // keys, values and about 100 bytes for each change; 0 means 32 MiB
}

const (
	defaultDialTimeout = 5 * time.Second
	defaultWatchBuffer = 4 << 20
	maxKeyBytes        = 64 << 10
	maxStringBytes     = 512 << 20
	maxPoolSize        = 1<<16 - 1 // one address of ours has no more ports to one of the server's
)

func (o Options) withDefaults() Options {
	set := func(p *int, d int) {
		if *p <= 0 {
			*p = d
		}
	}
	setDuration := func(p *time.Duration, d time.Duration) {
		if *p <= 0 {
			*p = d
		}
	}
	setDuration(&o.DialTimeout, defaultDialTimeout)
	setDuration(&o.History.Age, time.Hour)
	set(&o.History.Entries, 100_000)
	set(&o.History.Bytes, 32<<20)
	set(&o.WatchBuffer, defaultWatchBuffer)
	set(&o.MaxValueBytes, maxStringBytes)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
