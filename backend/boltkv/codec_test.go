package boltkv

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

func FuzzRecord(f *testing.F) {
	for _, r := range []record{
		{Record: embedded.Record{Revision: 1, Created: 1}},
		{Record: embedded.Record{Revision: 300, Created: 2, Deadline: math.MaxInt64, Lease: 7}, sum: math.MaxUint32},
	} {
		f.Add(r.append(nil))
	}
	f.Add([]byte{0, 0, 0, 0, 2, 1, 0, 5}) // a lease without a deadline
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			if !errors.Is(err, backend.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := parseRecord(r.append(nil))
		if err != nil || !reflect.DeepEqual(again, r) || len(r.append(nil)) > maxRecord {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

func FuzzRecent(f *testing.F) {
	f.Add(recent{[]byte("b"), nil}.append(recent{[]byte("a"), []byte("record")}.append(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseRecent(b)
		if err != nil {
			if !errors.Is(err, backend.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
			return
		}
		var again []byte
		for i, r := range list {
			if i > 0 && bytes.Compare(list[i-1].key, r.key) >= 0 {
				t.Errorf("%q before %q", list[i-1].key, r.key)
			}
			again = r.append(again)
		}
		if parsed, err := parseRecent(again); err != nil || !reflect.DeepEqual(parsed, list) {
			t.Errorf("%q became %q, %v", list, parsed, err)
		}
	})
}

func FuzzCommit(f *testing.F) {
	f.Add(appendCommit(nil, &embedded.Commit{Revision: 9, Changes: []embedded.Change{
		{Kind: backend.Created, Key: "a", Record: embedded.Record{Value: []byte("v"), Revision: 9, Created: 9}},
		{Kind: backend.Deleted, Key: "b", PrevLost: true, Adopted: true, Prev: embedded.Record{Revision: 3, Created: 2, Deadline: 5, Lease: 2}},
	}}, time.UnixMilli(1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCommit(9, b)
		if err != nil {
			if !errors.Is(err, backend.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := parseCommit(9, appendCommit(nil, c, time.UnixMilli(1)))
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%+v became %+v, %v", c, again, err)
		}
	})
}

// Whatever readers put into the cache, none is told a record that its view
// does not have. The file is played by an array of the transaction that wrote
// each key last.
func TestCacheAgreesWithViews(t *testing.T) {
	const keys, rounds = 5000, 20_000 // some keys share a set
	var c cache
	var visible atomic.Int64
	type version struct{ at, before int64 }
	file := make([]atomic.Pointer[version], keys) // the two last ones that wrote a key
	for i := range file {
		file[i].Store(&version{1, 1})
	}
	visible.Store(1)
	name := func(i int) string { return fmt.Sprint("key", i) }
	rec := func(id int64) record {
		return record{Record: embedded.Record{Revision: backend.Revision(id), Created: 1}}
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var hits atomic.Int64
	for g := range 3 {
		readers.Go(func() {
			for i := g; ; i += 7 {
				select {
				case <-stop:
					return
				default:
				}
				k := i % 64 // often the ones that are written
				if i%3 == 0 {
					k = i % keys
				}
				view := visible.Load()
				r, ok, l := c.get(name(k), view)
				v := file[k].Load()
				want := v.at
				if want > view {
					want = v.before
				}
				if want > view {
					continue // written twice since: this view is older than the test can tell
				}
				if !ok {
					l.put(view, rec(want))
					continue
				}
				hits.Add(1)
				if got := int64(r.Revision); got != want && file[k].Load() == v {
					t.Errorf("view %d of %s is told %d, has %d", view, name(k), got, want)
					return
				}
			}
		})
	}
	for id := int64(2); id < rounds; id++ {
		k := int(id*31) % 64
		w := c.begin(id, []string{name(k)})
		file[k].Store(&version{id, file[k].Load().at})
		visible.Store(id)
		if id%2 == 0 {
			w.end(func(string) (record, bool) { return rec(id), true })
		}
	}
	close(stop)
	readers.Wait()
	if hits.Load() == 0 {
		t.Error("nothing was found")
	}
}
