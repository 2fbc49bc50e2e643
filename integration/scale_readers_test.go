package integration

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/watch"
)

// digest is a state in a few bytes: of two that differ it does, but for one in
// 2^64.
type digest struct {
	sum  uint64
	keys int
}

// flip adds an entry, or takes it away. key is the hash of the key.
func (d *digest) flip(key uint64, rev kv.Revision, keys int) {
	x := key ^ uint64(rev)*0x9e3779b97f4a7c15
	x = (x ^ x>>32) * 0xd6e8feb86659fd93 // murmur's finish: each bit of x changes half of the sum's
	x = (x ^ x>>32) * 0xd6e8feb86659fd93
	d.sum ^= x ^ x>>32
	d.keys += keys
}

// readers are subscribers that each work out the digest of what they are told.
type readers struct {
	seed      maphash.Seed
	delivered atomic.Int64
	final     atomic.Pointer[digest] // set before writing ends
	running   sync.WaitGroup
}

// start adds n, and returns when they have been told all that is there. They
// read until they have the final state.
func (r *readers) start(tb testing.TB, ctx, writing context.Context, m *watch.Mirror[int], n int) {
	var told sync.WaitGroup
	told.Add(n)
	for i := range n {
		sub := m.Subscribe(watch.Buffer([]int{64, 1024}[i%2]))
		r.running.Go(func() {
			defer sub.Close()
			synced := sync.OnceFunc(told.Done)
			defer synced()
			if err := r.read(ctx, writing, sub, synced); err != nil {
				tb.Errorf("subscriber %d: %v", i, err)
			}
		})
	}
	told.Wait()
}

func (r *readers) read(ctx, writing context.Context, sub *watch.Subscription[int], synced func()) error {
	var d digest
	until := writing
	for n := int64(1); ; n++ {
		ev, err := sub.Next(until)
		switch {
		case err != nil && until == writing && errors.Is(err, context.Canceled):
			until = ctx // it is known what it has to arrive at
		case err != nil:
			return fmt.Errorf("with %d keys: %w", d.keys, err)
		}
		key := maphash.String(r.seed, ev.Key)
		if ev.Prev != nil {
			d.flip(key, ev.Prev.Revision, -1)
		}
		switch ev.Kind {
		case kv.Existing, kv.Created, kv.Updated:
			d.flip(key, ev.Revision, 1)
		case kv.Synced:
			synced()
		}
		if n%64 == 0 {
			r.delivered.Add(64)
		}
		if until == ctx && d == *r.final.Load() {
			return nil
		}
	}
}
