package etcdkv

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// guardDelay is how long a seat exists before its key is watched. Most locks are
// held for less, and are spared the stream.
const guardDelay = 20 * time.Millisecond

// guard watches the seat's own key until the seat is over.
func (c *seat) guard() {
	t := time.AfterFunc(guardDelay, func() {
		c.s.spawn(func() {
			var wait backoff.Backoff
			for from := c.rev + 1; c.ctx.Err() == nil; {
				err := c.s.awaitDelete(c.ctx, span{from: []byte(c.key)}, from)
				if err == nil {
					_ = c.lost()
					return
				}
				if errors.Is(err, backend.ErrHistoryLost) {
					// Too long ago for events; is it there now?
					resp, err := call(c.ctx, c.s, reads, c.s.kv.Range, &pb.RangeRequest{Key: []byte(c.key), KeysOnly: true})
					if err == nil {
						if !c.present(resp.Kvs) {
							_ = c.lost()
							return
						}
						from = resp.Header.Revision + 1
					}
				}
				wait.Wait(c.ctx)
			}
		})
	})
	context.AfterFunc(c.ctx, func() { t.Stop() })
}

// lost ends the seat because its key is gone.
func (c *seat) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.over = true
		c.stop()
		c.s.drop(c)
		close(c.gone)
	}
	return backend.ErrLockLost
}

// Renew implements backend.Contender. It renews the lease and looks whether
// the key is still there, for a key may go without its lease.
func (c *seat) Renew(ctx context.Context) error {
	if err := c.state(ctx); err != nil {
		return err
	}
	sent := time.Now()
	there, err := c.s.keepAlive(ctx, c.lease.id)
	switch {
	case err != nil:
		return err
	case !there:
		return c.lost()
	}
	resp, err := call(ctx, c.s, reads, c.s.kv.Range, &pb.RangeRequest{Key: []byte(c.key), KeysOnly: true})
	if err != nil {
		return err
	}
	if !c.present(resp.Kvs) {
		return c.lost()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sent.After(c.lease.renewed) {
		c.lease.renewed = sent
	}
	return nil
}

// Set implements backend.Contender.
func (c *seat) Set(ctx context.Context, value []byte) error {
	if err := c.s.fitsValue(value); err != nil {
		return err
	}
	if err := c.state(ctx); err != nil {
		return err
	}
	resp, err := call(ctx, c.s, writes, c.s.kv.Txn, &pb.TxnRequest{
		Compare: []*pb.Compare{compareCreate([]byte(c.key), pb.Compare_EQUAL, c.rev)},
		Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: []byte(c.key), Value: value, IgnoreLease: true})},
	})
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		return c.lost()
	}
	return nil
}

// Release implements backend.Contender, with one request. Until the key's name
// is used again deleting it can be repeated; if it has to be, it never is.
func (c *seat) Release(ctx context.Context) error {
	c.mu.Lock()
	if c.done != nil || c.over {
		done := c.done
		c.mu.Unlock()
		if done == nil {
			return nil // lost
		}
		return await(ctx, done, &c.err)
	}
	end, ok := c.s.begin()
	if !ok {
		c.mu.Unlock()
		return backend.ErrClosed // which gives it back
	}
	done := make(chan struct{})
	c.done, c.over = done, true
	lease := c.lease
	c.stop()
	c.mu.Unlock()

	leave := func(ctx context.Context) error {
		_, err := c.s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(c.key)})
		return err
	}
	finish := func(err error) {
		defer end()
		c.err = err
		c.s.drop(c)
		close(done)
	}
	if ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, cleanupTry)
		err := leave(try)
		cancel()
		if err == nil {
			c.s.numbers.put(c.num)
			c.s.rest(lease)
			finish(nil)
			return nil
		}
	}
	c.s.work.Go(func() { finish(c.s.revoke(lease)) })
	return await(ctx, done, &c.err)
}

// await waits for done, after which err is set, or for the end of ctx. What is
// done already counts, whatever ctx says.
func await(ctx context.Context, done <-chan struct{}, err *error) error {
	select {
	case <-done:
		return *err
	default:
	}
	select {
	case <-done:
		return *err
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
}

// abandon is Release for Close.
func (c *seat) abandon() {
	c.mu.Lock()
	over := c.over
	c.over = true
	lease := c.lease
	c.mu.Unlock()
	if !over {
		_ = c.s.revoke(lease) // or it ends by itself
	}
}
