package kv

import (
	"fmt"
	"slices"
	"testing"

	"github.com/polykv/kv/backend"
)

// TestQueueBehind: a reader who is never quite through costs no more than what
// waits for him, and gets all of it in order.
func TestQueueBehind(t *testing.T) {
	for _, merging := range []bool{false, true} {
		t.Run(fmt.Sprintf("merging %v", merging), func(t *testing.T) {
			var q queue
			if merging {
				q.startMerging()
			}
			push := func(i int) {
				rev := Revision(i)
				q.push(queued{Event: backend.Event{Kind: Created, Entry: backend.Entry{Key: fmt.Sprint(i), Revision: rev, Created: rev}}})
			}
			push(0)
			for i := range 10_000 {
				push(i + 1)
				if merging { // the last one is found where it is now
					rev := Revision(i + 1)
					q.push(queued{Event: backend.Event{Kind: Updated, Entry: backend.Entry{Key: fmt.Sprint(i + 1), Revision: rev}}})
				}
				e, ok := q.pop()
				if !ok || e.Revision != Revision(i) || e.Entry.Key != fmt.Sprint(i) || e.Kind != Created {
					t.Fatalf("event %d is %+v", i, e)
				}
			}
			if q.len() != 1 || cap(q.events) > 1024 || len(q.index) > 1024 {
				t.Errorf("%d wait, in %d places with %d names", q.len(), cap(q.events), len(q.index))
			}
		})
	}
}

// TestQueueOfVoidEvents: keys that come and go while a merging queue's reader
// is away leave nothing behind, however many they are, and what is between
// them stays; unless the reader may have listed them.
func TestQueueOfVoidEvents(t *testing.T) {
	const n = 100_000
	for _, listing := range []bool{false, true} {
		t.Run(fmt.Sprintf("listing %v", listing), func(t *testing.T) {
			q := queue{listing: listing}
			rev := Revision(0)
			push := func(kind Kind, key string) {
				rev++
				q.push(queued{Event: backend.Event{Kind: kind, Entry: backend.Entry{Key: key, Revision: rev}}})
			}
			push(Created, "first")
			q.startMerging()
			most, limit := 0, 1000*eventBytes
			if listing {
				limit = 2 * n * eventBytes
			}
			for i := range n {
				if i%(n/4) == 0 {
					push(Updated, fmt.Sprintf("stays-%d", i/(n/4)))
				}
				key := fmt.Sprintf("key-%d", i%(n/2)) // each of them twice
				push(Created, key)
				push(Deleted, key)
				most = max(most, q.bytes, cap(q.events)*eventBytes)
			}
			push(Created, "comes back")
			push(Deleted, "comes back")
			push(Created, "comes back")
			if most > limit {
				t.Errorf("%d bytes for events that cancel each other", most)
			}
			var got []string
			voids := 0
			for {
				e, ok := q.pop()
				if !ok {
					break
				}
				if e.void {
					voids++
					continue
				}
				got = append(got, e.Kind.String()+" "+e.Entry.Key)
			}
			want := []string{"created first", "updated stays-0", "updated stays-1", "updated stays-2", "updated stays-3", "created comes back"}
			if !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			if want := n / 2; listing && voids != want || !listing && voids != 0 {
				t.Errorf("%d void events", voids)
			}
			if q.bytes != 0 || q.len() != 0 || q.holes != 0 {
				t.Errorf("%d events with %d bytes and %d holes are left", q.len(), q.bytes, q.holes)
			}
		})
	}
}
