package etcdkv

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// snapshot delivers what is there at the watch's position. It goes on after a
// broken connection: the revision stays the same.
func (w *watcher) snapshot() error {
	w.turn.Lock()
	defer w.turn.Unlock()
	from := w.span.from
	var wait backoff.Backoff
	for {
		var full error
		r := &pb.RangeRequest{Key: from, RangeEnd: w.span.to, Revision: w.pos.rev}
		err := w.s.scan(w.ctx, r, func(kvs []*mvccpb.KeyValue) bool {
			wait.Reset()
			w.heard()
			horizon := w.s.horizon()
			for _, kv := range kvs {
				from = append(kv.Key[:len(kv.Key):len(kv.Key)], 0)
				key, ok := w.s.key(kv.Key)
				if !ok {
					continue
				}
				if expired(kv.Lease, horizon) {
					w.hide(key)
					continue
				}
				full = w.q.push(w.ctx, backend.Event{Kind: backend.Existing, Entry: entry(key, kv)})
				if full != nil {
					return false
				}
			}
			return true
		})
		switch {
		case full != nil:
			return full
		case err == nil:
			return w.q.push(w.ctx, w.mark(backend.Synced))
		case final(err) || w.ctx.Err() != nil:
			return err
		case w.span.to == nil && len(from) > len(w.span.from):
			return w.q.push(w.ctx, w.mark(backend.Synced)) // the one key was delivered
		}
		w.gone.CompareAndSwap(0, time.Now().UnixNano())
		wait.Wait(w.ctx)
	}
}

// hide remembers a key that had expired as the watch began. Readers never saw
// it, so nobody is told when it goes.
func (w *watcher) hide(key string) {
	if w.hidden == nil {
		w.hidden = make(map[string]struct{})
	}
	w.hidden[key] = struct{}{}
}
