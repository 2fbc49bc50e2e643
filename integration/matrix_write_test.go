package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
)

// TestModifyRaces has several clients count in one key: no increment is lost, the TTL of the key stays as it was, and each
// change has an event or a later state of the key has.
func TestModifyRaces(t *testing.T) {
	const clients, goroutines, each = 2, 3, 8
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*within)
		defer cancel()
		first := kv.NewTyped(open(t), codec.JSON[int](), "counters")
		made := ok[kv.Entry[int]](t)(first.Modify(ctx, "visits", func(*kv.Entry[int]) error { return nil }, kv.Upsert(), kv.TTL(time.Hour)))
		w := ok[*kv.Watch[int]](t)(first.Watch(ctx, ""))
		defer w.Close()
		var wg sync.WaitGroup
		var mu sync.Mutex
		revisions := map[kv.Revision]int{}
		for range clients {
			ns := kv.NewTyped(open(t), codec.JSON[int](), "counters")
			for range goroutines {
				wg.Go(func() {
					for range each {
						e, err := ns.Modify(ctx, "visits", func(e *kv.Entry[int]) error { e.Value++; return nil })
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						revisions[e.Revision]++
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		const want = clients * goroutines * each
		e := ok[kv.Entry[int]](t)(first.Get(ctx, "visits"))
		if e.Value != want || len(revisions) != want {
			t.Errorf("%d of %d increments are there, of %d revisions", e.Value, want, len(revisions))
		}
		if !e.Expires.Equal(made.Expires) {
			t.Errorf("expires at %v, made to expire at %v", e.Expires, made.Expires)
		}
		last, events := 0, 0
		for last < want {
			ev := ok[kv.Event[int]](t)(w.Next(ctx))
			if ev.Value <= last {
				t.Fatalf("%d came after %d", ev.Value, last)
			}
			last = ev.Value
			events++
		}
		if w.Lossless() && events != want {
			t.Errorf("%d events of %d changes", events, want)
		}
	})
}

// TestCreateRaces lets clients create one key at once, and update one revision at once: each time one of them wins.
func TestCreateRaces(t *testing.T) {
	const rounds, racers = 8, 4
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*within)
		defer cancel()
		var stores []*kv.Store
		for range racers {
			stores = append(stores, open(t))
		}
		race := func(what string, lost error, do func(s *kv.Store) (kv.Entry[[]byte], error)) kv.Entry[[]byte] {
			t.Helper()
			won := make(chan kv.Entry[[]byte], racers)
			var wg sync.WaitGroup
			for _, s := range stores {
				wg.Go(func() {
					if e, err := do(s); err == nil {
						won <- e
					} else if !errors.Is(err, lost) {
						t.Errorf("%s: %v", what, err)
					}
				})
			}
			wg.Wait()
			if len(won) != 1 {
				t.Fatalf("%s: %d of %d racers won", what, len(won), racers)
			}
			return <-won
		}
		for i := range rounds {
			key, same := fmt.Sprint("race/", i), []byte("the same value")
			e := race("create", kv.ErrExists, func(s *kv.Store) (kv.Entry[[]byte], error) { return s.Create(ctx, key, same) })
			e = race("update", kv.ErrConflict, func(s *kv.Store) (kv.Entry[[]byte], error) { return s.Update(ctx, key, same, e.Revision) })
			race("delete", kv.ErrConflict, func(s *kv.Store) (kv.Entry[[]byte], error) {
				return e, s.Delete(ctx, key, kv.IfRevision(e.Revision))
			})
		}
	})
}

// TestRetryOnConflictTransfers moves amounts between accounts, two keys at a time, from several clients: the sum stays.
func TestRetryOnConflictTransfers(t *testing.T) {
	const accounts, start, clients, moves = 4, 100, 3, 8
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*within)
		defer cancel()
		bank := kv.NewTyped(open(t), codec.Msgpack[int](), "bank")
		for i := range accounts {
			ok[kv.Entry[int]](t)(bank.Put(ctx, fmt.Sprint(i), start))
		}
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		var wg sync.WaitGroup
		for c := range clients {
			s := open(t)
			mine := kv.NewTyped(s, codec.Msgpack[int](), "bank")
			rng := rand.New(rand.NewPCG(seed, uint64(c)))
			wg.Go(func() {
				for range moves {
					from, to, amount := rng.IntN(accounts), rng.IntN(accounts-1), rng.IntN(50)
					if to >= from {
						to++
					}
					if err := kv.RetryOnConflict(ctx, func(ctx context.Context) error {
						both, err := mine.GetMany(ctx, []string{fmt.Sprint(from), fmt.Sprint(to)})
						if err != nil {
							return err
						}
						tx := s.Txn()
						view := mine.In(tx)
						view.Update(both[0].Key, both[0].Value-amount, both[0].Revision)
						view.Update(both[1].Key, both[1].Value+amount, both[1].Revision)
						_, err = tx.Commit(ctx)
						return err
					}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		sum := 0
		for e, err := range bank.List(ctx, "") {
			if err != nil {
				t.Fatal(err)
			}
			sum += e.Value
		}
		if sum != accounts*start {
			t.Errorf("the accounts hold %d, want %d", sum, accounts*start)
		}
	})
}

// TestTypedTransactions commits operations of several views, codecs and kinds at once, and none of them when a check fails.
func TestTypedTransactions(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s, ctx := open(t), t.Context()
		orders := kv.NewTyped(s, codec.JSON[map[string]int](), "orders")
		names := kv.NewTyped(s.Sub("deep/er"), codec.Proto[*wrapperspb.StringValue](), "names")
		old := ok[kv.Entry[map[string]int]](t)(orders.Put(ctx, "old", map[string]int{"a": 1}))
		ok[kv.Entry[[]byte]](t)(s.Put(ctx, "raw", []byte("raw")))

		build := func(absent string) *kv.Txn {
			tx := s.Txn()
			tx.IfPresent("raw")
			orders.In(tx).Update("old", map[string]int{"a": 2}, old.Revision)
			orders.In(tx).Create("new", map[string]int{}, kv.TTL(time.Hour))
			names.In(tx).Put("ann", wrapperspb.String("Ann"))
			names.In(tx).IfAbsent(absent)
			tx.Delete("raw")
			tx.Delete("never/there")
			return tx
		}
		// The check that fails names its key, and nothing of the rest happened.
		ok[kv.Entry[*wrapperspb.StringValue]](t)(names.Put(ctx, "taken", wrapperspb.String("")))
		_, err := build("taken").Commit(ctx)
		if check := (*kv.CheckError)(nil); !errors.As(err, &check) || check.Key != "deep/er/names/taken" || !errors.Is(err, kv.ErrExists) {
			t.Errorf("a check that fails: %v", err)
		}
		if e, err := orders.Get(ctx, "old"); err != nil || e.Revision != old.Revision {
			t.Errorf("after a commit that failed: %+v, %v", e, err)
		}
		if there, err := orders.Exists(ctx, "new"); there || err != nil {
			t.Errorf("a commit that failed made a key: %v, %v", there, err)
		}

		r := ok[kv.TxnResult](t)(build("free").Commit(ctx))
		if len(r.Entries) != 5 {
			t.Errorf("%d entries of 5 writes", len(r.Entries))
		}
		changed := ok[kv.Entry[map[string]int]](t)(orders.Get(ctx, "old"))
		made := ok[kv.Entry[map[string]int]](t)(orders.Get(ctx, "new"))
		ann := ok[kv.Entry[*wrapperspb.StringValue]](t)(names.Get(ctx, "ann"))
		if changed.Value["a"] != 2 || len(made.Value) != 0 || made.Expires.IsZero() || ann.Value.Value != "Ann" {
			t.Errorf("committed %v, %v, %v", changed, made, ann)
		}
		if changed.Revision != r.Revision || made.Revision != r.Revision || ann.Revision != r.Revision {
			t.Errorf("revisions %d, %d, %d of a transaction of %d", changed.Revision, made.Revision, ann.Revision, r.Revision)
		}
		if there, err := s.Exists(ctx, "raw"); there || err != nil {
			t.Errorf("what was deleted is there: %v, %v", there, err)
		}
		// The same again fails: the revision is another one now.
		if _, err := build("free").Commit(ctx); !errors.Is(err, kv.ErrNotFound) && !errors.Is(err, kv.ErrConflict) {
			t.Errorf("the same again: %v", err)
		}

		// As many operations as there may be, in two views, and one more.
		full := func(n int) error {
			tx := s.Txn()
			for i := range n {
				if i%2 == 0 {
					orders.In(tx).Put(fmt.Sprint("many/", i), map[string]int{"i": i})
				} else {
					names.In(tx).IfAbsent(fmt.Sprint("none/", i))
				}
			}
			_, err := tx.Commit(ctx)
			return err
		}
		if err := full(64); err != nil {
			t.Errorf("64 operations: %v", err)
		}
		if err := full(65); !errors.Is(err, kv.ErrTooLarge) {
			t.Errorf("65 operations: %v", err)
		}
		if n := len(ok[[]kv.Entry[map[string]int]](t)(kv.Collect(orders.List(ctx, "many")))); n != 32 {
			t.Errorf("%d keys, want 32", n)
		}
	})
}
