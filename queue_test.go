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

// TestQueueChurn: what comes and goes leaves nothing behind while merging, nor
// do the markers of outages; and a key that came and went is kept for whom
// keepVoid says so.
func TestQueueChurn(t *testing.T) {
	event := func(kind Kind, key string, rev int) queued {
		return queued{Event: backend.Event{Kind: kind, Entry: backend.Entry{Key: key, Revision: Revision(rev)}}}
	}
	for _, keepVoid := range []bool{false, true} {
		q := queue{keepVoid: keepVoid}
		q.push(event(Updated, "first", 1))
		q.startMerging()
		for i := range 10_000 {
			key := fmt.Sprint(i % 5000)
			q.push(event(Created, key, i))
			q.push(event(Resynced, "", 0))
			q.push(event(Updated, key, i))
			q.push(event(Deleted, key, 0))
			q.push(event(Synced, "", 0))
			q.push(event(Progress, "", 0))
		}
		q.push(event(Updated, "last", 1))
		want := []string{"updated first", "resynced ", "synced ", "progress ", "updated last"}
		if !keepVoid {
			if q.len() != len(want) || len(q.events) > 1024 || len(q.index) != 4 || q.voidBytes != 0 {
				t.Errorf("%d wait in %d places, with %d names", q.len(), len(q.events), len(q.index))
			}
		}
		var got []string
		void := 0
		for e, ok := q.pop(); ok; e, ok = q.pop() {
			if e.void {
				void++
				continue
			}
			got = append(got, e.Kind.String()+" "+e.Entry.Key)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("keepVoid %v: got %q, want %q", keepVoid, got, want)
		}
		if keepVoid && void != 5000 {
			t.Errorf("%d keys that came and went were kept", void)
		}
		if q.bytes != 0 || q.voidBytes != 0 || q.len() != 0 || q.away != 0 {
			t.Errorf("an empty queue counts %d bytes, %d of them void, %d events", q.bytes, q.voidBytes, q.len())
		}
	}
}

// TestQueueForgets: marks that are taken back leave the others where they are.
func TestQueueForgets(t *testing.T) {
	for _, merging := range []bool{false, true} {
		var q queue
		if merging {
			q.startMerging()
		}
		const marks = 3000
		for i := range marks {
			key := fmt.Sprint(i % 3)
			q.push(queued{Event: backend.Event{Kind: Updated, Entry: backend.Entry{Key: key, Revision: Revision(i + 1)}}})
			q.push(queued{Event: backend.Event{Kind: Progress}, mark: uint64(i + 1)})
			q.forget(uint64(i + 1))
			q.forget(marks + 1) // which is not there
		}
		q.push(queued{Event: backend.Event{Kind: Progress}, mark: marks})
		if want := 1 + map[bool]int{false: marks, true: 3}[merging]; q.len() != want || len(q.events) > want+100 {
			t.Errorf("merging %v: %d wait in %d places, want %d", merging, q.len(), len(q.events), want)
		}
		var last Revision
		var marked uint64
		for e, ok := q.pop(); ok; e, ok = q.pop() {
			if marked != 0 || e.mark == 0 && e.Revision <= last {
				t.Fatalf("merging %v: %+v after revision %d and mark %d", merging, e, last, marked)
			}
			marked = e.mark
			last = max(last, e.Revision)
		}
		if marked != marks || last != marks || q.bytes != 0 || q.away != 0 || q.len() != 0 {
			t.Errorf("merging %v: ends with revision %d, mark %d, %d bytes", merging, last, marked, q.bytes)
		}
	}
}
