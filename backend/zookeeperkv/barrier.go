package zookeeperkv

import (
	"context"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// barrier is one sync request that any number of reads wait behind.
type barrier struct {
	path    string
	written chan struct{} // closed when requests that are made from then on come after the sync
	done    chan struct{} // closed when the sync was answered
	err     error
}

// sync starts a sync, or joins one that has not been sent: whoever joins later could miss a write that was complete
// before. ZooKeeper answers the requests of one connection in order, so on a connection of the driver's own a read may
// follow as soon as the sync is on the wire. The client does not tell when it is, on a connection of the caller's: there
// the answer is waited for.
func (l *link) sync(ctx context.Context, path string) *barrier {
	if err := backend.ContextError(ctx); err != nil { // or an answer that is there already might be told instead
		b := &barrier{written: make(chan struct{}), done: make(chan struct{}), err: err}
		close(b.written)
		close(b.done)
		return b
	}
	l.mu.Lock()
	b := l.barrier
	if b != nil {
		l.mu.Unlock()
		return b
	}
	b = &barrier{written: make(chan struct{}), done: make(chan struct{})}
	if l.wire != nil {
		// The server looks at no node for a sync, so the path can tell this one from all others.
		b.path = l.wire.expect(path, func() { l.release(b) })
		l.barrier = b
	} else {
		b.path = path
	}
	l.mu.Unlock()
	run := func() {
		// Not the caller's context: others may have joined.
		_, b.err = call(context.WithoutCancel(ctx), l, writes, func(c *zk.Conn) (string, error) { return c.Sync(b.path) }, nil)
		b.err = unanswered(b.err)
		if l.wire != nil {
			l.wire.forget(b.path)
		}
		l.release(b)
		close(b.done)
	}
	if !l.spawn(run) {
		b.err = backend.ErrClosed
		l.release(b)
		close(b.done)
	}
	return b
}

// release lets the reads behind b go.
func (l *link) release(b *barrier) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.barrier == b {
		l.barrier = nil
	}
	select {
	case <-b.written:
	default:
		close(b.written)
	}
}

// wait waits until b is written or, with answered, answered.
func (b *barrier) wait(ctx context.Context, answered bool) error {
	ch := b.written
	if answered {
		ch = b.done
	}
	select {
	case <-ch:
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
	select {
	case <-b.done:
		return b.err
	default:
		return nil
	}
}
