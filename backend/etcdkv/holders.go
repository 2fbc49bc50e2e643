package etcdkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// Holders implements backend.Store: one read of the queue, then a watch of it.
func (s *Store) Holders(ctx context.Context, name string) iter.Seq2[backend.Holder, error] {
	return func(yield func(backend.Holder, error) bool) {
		// Whatever it waits for, and the time between two attempts, ends with the store too.
		life, leave := s.bound(ctx, false)
		defer leave()
		o := &observer{s: s, queue: s.queue(name), yield: yield}
		err := s.schema(life)
		var wait backoff.Backoff
		for {
			if err == nil {
				err = o.observe(life, wait.Reset)
			}
			switch {
			case o.left || ctx.Err() != nil:
				return
			case final(err) && !errors.Is(err, backend.ErrHistoryLost), errors.Is(err, backend.ErrNewerSchema), errors.Is(err, backend.ErrCorrupt):
				yield(backend.Holder{}, err)
				return
			}
			wait.Wait(life)
			err = s.usable(life) // of the two that may have ended, the store comes first
		}
	}
}

// observer follows the head of a queue.
type observer struct {
	s     *Store
	queue string
	yield func(backend.Holder, error) bool
	seats map[string]*mvccpb.KeyValue
	told  bool
	last  backend.Holder
	left  bool // the consumer has had enough
}

// observe tells of heads until the connection breaks.
func (o *observer) observe(ctx context.Context, healthy func()) error {
	r := allSeats(o.queue)
	r.KeysOnly = false
	resp, err := call(ctx, o.s, reads, o.s.kv.Range, r)
	if err != nil {
		return err
	}
	o.seats = make(map[string]*mvccpb.KeyValue)
	for _, kv := range resp.Kvs {
		o.seats[string(kv.Key)] = kv
	}
	healthy()
	if o.tell(); o.left {
		return nil
	}
	st, err := o.s.openStream(ctx)
	if err != nil {
		return err
	}
	defer st.close()
	// An error of Send comes out of Recv, with its reason.
	_ = st.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(o.queue), RangeEnd: after(o.queue), StartRevision: resp.Header.Revision + 1,
	}}})
	for {
		resp, err := st.recv()
		switch {
		case err != nil:
			return err
		case resp.CompactRevision > 0:
			return errCompacted
		case resp.Canceled:
			return fmt.Errorf("%w: watch canceled by the server: %s", backend.ErrUnavailable, resp.CancelReason)
		}
		for _, ev := range resp.Events {
			if ev.Type == mvccpb.DELETE {
				delete(o.seats, string(ev.Kv.Key))
			} else {
				o.seats[string(ev.Kv.Key)] = ev.Kv
			}
			if o.tell(); o.left {
				return nil
			}
		}
	}
}

// tell yields the head if it is another than before.
func (o *observer) tell() {
	var now backend.Holder
	for _, kv := range o.seats {
		if token := uint64(kv.CreateRevision); now.Token == 0 || token < now.Token {
			now = backend.Holder{Value: kv.Value, Token: token}
		}
	}
	if o.told && now.Token == o.last.Token && bytes.Equal(now.Value, o.last.Value) {
		return
	}
	o.told, o.last = true, now
	now.Value = bytes.Clone(now.Value)
	o.left = !o.yield(now, nil)
}
