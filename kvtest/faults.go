package kvtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// Faults makes chosen calls go wrong. It works over any store:
//
//	var faults kvtest.Faults
//	s := kvtest.New(t, kv.Intercept(faults.Intercept))
//	faults.LoseReply(kv.OpPut) // applied, and nobody hears of it
//
// Faults of one operation are used up in the order in which they were
// ordered, one for each call. An operation is what the program calls: a
// fenced Put is kv.OpPut, the write of a transaction kv.OpCommit. Modify is
// kv.OpModify around a kv.OpGet and a kv.OpUpdate or kv.OpCreate for each
// round. A lock is two calls of kv.OpLock, one for its place in the queue and
// one that waits for admission, then kv.OpRenew three times in each lease, and
// kv.OpUnlock. Faults strike outside of the library's retries of reads, so a
// single one is seen by the caller.
//
// The zero value has no faults. Methods are safe for concurrent use.
type Faults struct {
	mu    sync.Mutex
	queue map[kv.Op][]fault
}

// fault is what happens to one call.
type fault struct {
	err   error
	after bool // the store does what it was asked first
}

// FailNext makes the next calls of op fail with errs, one after the other,
// without reaching the store; without errs, one call with kv.ErrUnavailable. A
// nil error lets its call pass.
func (f *Faults) FailNext(op kv.Op, errs ...error) {
	if len(errs) == 0 {
		errs = []error{kv.ErrUnavailable}
	}
	for _, err := range errs {
		f.order(op, fault{err: err})
	}
}

// LoseReply makes the next call of op reach the store, which applies or
// refuses it, and then fail as if the connection had broken before the reply:
// a write with kv.ErrUncertain, a read with kv.ErrUnavailable.
func (f *Faults) LoseReply(op kv.Op) {
	err := fmt.Errorf("%w: kvtest lost the reply", backend.ErrUncertain)
	switch op {
	case kv.OpGet, kv.OpGetMany, kv.OpList, kv.OpWatch, kv.OpObserve, kv.OpPing:
		err = fmt.Errorf("%w: kvtest lost the reply", backend.ErrUnavailable)
	}
	f.order(op, fault{err: err, after: true})
}

// Pending is how many faults were ordered and have not struck yet: a test that
// ends with some did not test what it meant to.
func (f *Faults) Pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, q := range f.queue {
		n += len(q)
	}
	return n
}

// Intercept is the kv.Interceptor.
func (f *Faults) Intercept(ctx context.Context, c kv.Call, next func(context.Context) error) error {
	now, ok := f.take(c.Op)
	switch {
	case !ok || now.err == nil:
		return next(ctx)
	case now.after:
		// Whatever the store said, a refusal too, was in the reply.
		_ = next(ctx)
	}
	return now.err
}

func (f *Faults) order(op kv.Op, what fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.queue == nil {
		f.queue = map[kv.Op][]fault{}
	}
	f.queue[op] = append(f.queue[op], what)
}

func (f *Faults) take(op kv.Op) (fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.queue[op]
	if len(q) == 0 {
		return fault{}, false
	}
	f.queue[op] = q[1:]
	return q[0], true
}
