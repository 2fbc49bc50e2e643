package embedded

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv/backend"
)

// R31: who finds a lease that has ended before its timer went off takes the
// place of its holder, and is in the queue that those who come later are in.
func TestOneHolderAfterLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLocks(time.Second, 0, func(context.Context, uint64) error {
			time.Sleep(100 * time.Millisecond) // virtual time: so much later than the lease ends its timer
			return nil
		})
		defer l.Wait()
		defer l.End(nil)
		late := contend(t, l, backend.ContendOptions{Lease: time.Second})
		time.Sleep(950 * time.Millisecond) // virtual time
		select {
		case <-late.Lost():
			t.Fatal("the timer went off before the test began")
		default:
		}
		holder := contend(t, l, backend.ContendOptions{Lease: time.Hour})
		if !admitted(holder) {
			t.Fatal("the lease has ended, and nobody else is admitted")
		}
		if other := contend(t, l, backend.ContendOptions{Lease: time.Hour}); admitted(other) {
			t.Error("two hold the lock")
		}
		p := l.pin(holder.Check(), time.Now())
		if p == nil {
			t.Fatal("the holder's check fails")
		}
		l.unpin(p)
	})
}

// table is an empty one.
type table struct{ Table }

func (table) Get(string) (Record, bool, error) { return Record{}, false, nil }

// R31: a check asks whether the lease has ended by the clock that leases have,
// and not by that of TTLs, which parts from it when the wall clock is put back.
func TestCheckAfterClockWasPutBack(t *testing.T) {
	l := NewLocks(time.Second, 0, nil)
	defer l.Wait()
	defer l.End(nil)
	c := contend(t, l, backend.ContendOptions{Lease: time.Minute})
	s := &Step{Table: table{}, Locks: l, Now: time.Now().Round(0).Add(time.Hour)}
	defer s.Unpin()
	if _, err := s.Apply(Op{Checks: []backend.Check{c.Check()}}); err != nil {
		t.Error(err)
	}
}
