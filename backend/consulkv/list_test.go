package consulkv_test

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/polykv/kv/backend"
)

// Above listBuffer a list is yielded as it arrives; what has an escape, or has
// to wait for one, must come in order all the same.
func TestLongListsAreInOrder(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	value := bytes.Repeat([]byte("v"), 60<<10)
	var want []string
	for i := range 30 {
		for _, k := range []string{fmt.Sprintf("a%02d", i), fmt.Sprintf("😀%02d", i), fmt.Sprintf("\tz%02d", i), fmt.Sprintf("a%02d\x01", i), fmt.Sprintf("a%02d-", i), fmt.Sprintf("a%02d/b", i)} {
			_, err := f.s.Put(ctx, k, value, backend.PutOptions{})
			f.noErr(err)
			want = append(want, k)
		}
	}
	slices.Sort(want)
	var got []string
	for e, err := range f.s.List(ctx, "", backend.ListOptions{}) {
		f.noErr(err)
		if !bytes.Equal(e.Value, value) {
			t.Fatalf("%q has another value", e.Key)
		}
		got = append(got, e.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for range f.s.List(ctx, "", backend.ListOptions{}) {
		break // leaves nothing behind: goleak
	}
}

// A List of values that are many times what it may hold keeps to the names.
func TestLongListsStayOutOfMemory(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	value := bytes.Repeat([]byte("v"), 256<<10)
	const n = 200 // 50 MB
	for i := range n {
		_, err := f.s.Put(ctx, fmt.Sprintf("k%03d", i), value, backend.PutOptions{})
		f.noErr(err)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most, got := heap(), uint64(0), 0
	for _, err := range f.s.List(ctx, "", backend.ListOptions{}) {
		f.noErr(err)
		if got++; got%20 == 0 {
			most = max(most, heap())
		}
	}
	if got != n {
		t.Errorf("%d keys, want %d", got, n)
	}
	if held := int64(most) - int64(before); held > 12<<20 {
		t.Errorf("the list of %d MB holds %d MB", n*len(value)>>20, held>>20)
	}
}
