package story

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/polykv/kv"
)

func (st *story) create(ctx context.Context) error {
	st.say("\nCreate three instances.")
	for i, key := range []string{"web/1", "web/2", "webmail/1"} {
		_, err := st.services.Create(ctx, key, Service{fmt.Sprintf("10.0.0.%d:80", i+1), 10})
		if err := st.event(ctx, err); err != nil {
			return err
		}
	}
	_, err := st.services.Create(ctx, "web/1", Service{"10.9.9.9:80", 1})
	if !errors.Is(err, kv.ErrExists) {
		return fmt.Errorf("web/1 was created twice: %w", err)
	}
	st.say("Creating web/1 once more is refused: it exists.")
	return nil
}

func (st *story) list(ctx context.Context) error {
	st.say("\nList what is below web: webmail is not.")
	for e, err := range st.services.List(ctx, "web") {
		if err != nil {
			return err
		}
		st.say("  %s: %v (revision %d)", e.Key, e.Value, e.Revision)
	}
	return nil
}

func (st *story) update(ctx context.Context) error {
	st.say("\nTwo operators read web/1, and both change its weight.")
	e, err := st.services.Get(ctx, "web/1")
	if err != nil {
		return err
	}
	first, second := e.Value, e.Value
	first.Weight, second.Weight = 20, 30
	_, err = st.services.Update(ctx, "web/1", first, e.Revision)
	if err := st.event(ctx, err); err != nil {
		return err
	}
	_, err = st.services.Update(ctx, "web/1", second, e.Revision)
	if !errors.Is(err, kv.ErrConflict) {
		return fmt.Errorf("the second update was not refused: %w", err)
	}
	st.say("The second is refused, for it has not seen the first: a conflict.")
	return nil
}

func (st *story) modify(ctx context.Context) error {
	st.say("\nFour goroutines count five visits each.")
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			for range 5 {
				_, err := st.visits.Modify(ctx, "total", func(e *kv.Entry[int]) error {
					e.Value++
					return nil
				}, kv.Upsert())
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	e, err := st.visits.Get(ctx, "total")
	if err != nil {
		return err
	}
	st.say("None is lost: %d visits.", e.Value)
	return nil
}

func (st *story) transact(ctx context.Context) error {
	st.say("\nRetire web/2 in one transaction: it moves, or nothing happens.")
	e, err := st.services.Get(ctx, "web/2")
	if err != nil {
		return err
	}
	s := st.services.Store()
	retire := func() error {
		t := s.Txn()
		st.services.In(t).Delete("web/2", kv.IfRevision(e.Revision))
		st.retired.In(t).Create("web/2", Retired{e.Value, "disk failure"})
		_, err := t.Commit(ctx)
		return err
	}
	if err := st.event(ctx, retire()); err != nil {
		return err
	}
	moved, err := st.retired.Get(ctx, "web/2")
	if err != nil {
		return err
	}
	st.say("  retired: %s (%v): %s", moved.Key, moved.Value.Service, moved.Value.Reason)
	var check *kv.CheckError
	if err := retire(); !errors.As(err, &check) {
		return fmt.Errorf("web/2 was retired twice: %w", err)
	}
	st.say("Retiring it once more fails at its check, and writes nothing.")
	return nil
}

func (st *story) expire(ctx context.Context) error {
	const ttl = 2 * time.Second
	st.say("\nPut web/3 with a time to live of %v, and wait.", ttl)
	start := time.Now()
	_, err := st.services.Put(ctx, "web/3", Service{"10.0.0.3:80", 10}, kv.TTL(ttl))
	if err := st.event(ctx, err); err != nil {
		return err
	}
	if err := st.event(ctx, nil); err != nil { // it goes by itself
		return err
	}
	if lived := time.Since(start); lived < ttl {
		return fmt.Errorf("web/3 lived for %v only", lived)
	}
	if ok, err := st.services.Exists(ctx, "web/3"); ok || err != nil {
		return fmt.Errorf("web/3 exists after its time: %w", err)
	}
	st.say("It expired, and not before its time.")
	return nil
}

func (st *story) register(ctx context.Context) error {
	st.say("\nRegister web/4: it lives as long as this process keeps it alive.")
	reg, err := st.services.Register(ctx, "web/4", Service{"10.0.0.4:80", 10}, 10*time.Second)
	if err := st.event(ctx, err); err != nil {
		return err
	}
	st.say("Release it.")
	return st.event(ctx, reg.Release(ctx))
}
