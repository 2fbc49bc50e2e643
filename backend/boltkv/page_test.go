package boltkv

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// R8: entries share chunks of memory, but not one byte, and stay what they were
// when the page is used again.
func TestPageEntriesAreTheCallers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var p page
	type kept struct {
		backend.Entry
		key   string
		value []byte
	}
	var all []kept
	for round := range 20 {
		p.reset()
		for i := range rng.IntN(200) {
			key := fmt.Sprintf("%*d", 1+rng.IntN(40), i)
			size := []int{0, rng.IntN(8), rng.IntN(300), largeEntry + rng.IntN(20) - 10, rng.IntN(3 * chunkBytes)}[rng.IntN(5)]
			value := bytes.Repeat([]byte{byte(i), byte(round)}, size)
			if rng.IntN(10) == 0 {
				value = nil
			}
			p.add(key, value, value != nil).describe(&record{Record: embedded.Record{Revision: backend.Revision(i)}})
			all = append(all, kept{key: key, value: bytes.Clone(value)})
		}
		p.seal()
		for i := range p.lines {
			all[len(all)-len(p.lines)+i].Entry = p.entry(i)
		}
	}
	for i := range all {
		e := &all[i]
		if e.Entry.Key != e.key || !bytes.Equal(e.Value, e.value) || (e.Value == nil) != (e.value == nil) {
			t.Fatalf("entry %d is %q=%q, want %q=%q", i, e.Entry.Key, e.Value, e.key, e.value)
		}
		for j := range e.Value { // as a caller may
			e.Value[j] = 0xff
		}
		_ = append(e.Value, 0xfe)
	}
	for i := range all {
		if e := &all[i]; e.Entry.Key != e.key || len(bytes.Trim(e.Value, "\xff")) > 0 {
			t.Fatalf("entry %d has become %q=%q", i, e.Entry.Key, e.Value)
		}
	}
}

// What is thrown away at the ends of chunks stays a small part.
func TestPageWastesLittle(t *testing.T) {
	for _, sizes := range [][]int{{10}, {100}, {256}, {1000}, {largeEntry - 10}, {largeEntry + 1}, {6000}, {10, 2000}, {900, 20, 5000}} {
		p := page{lines: make([]line, 0, 2000), chunks: make([]string, 0, 2000)}
		value := make([]byte, slices.Max(sizes))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range 2000 {
			p.add("key", value[:sizes[i%len(sizes)]], true)
		}
		runtime.ReadMemStats(&after)
		if have := after.TotalAlloc - before.TotalAlloc; have > uint64(p.bytes*115/100+2*chunkBytes) {
			t.Errorf("values of %d: %d bytes for %d", sizes, have, p.bytes)
		}
	}
}
