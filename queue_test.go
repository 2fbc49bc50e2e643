package kv

import (
	"fmt"
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
