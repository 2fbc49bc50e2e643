package kv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
)

// told fails the test unless the watch's next event is as described: kind, key
// and value, and the value before in parentheses.
func told[T any](t testing.TB, w *kv.Watch[T], want string) kv.Event[T] {
	t.Helper()
	ev, err := w.Next(limited(t))
	if err != nil {
		t.Fatalf("want %q: %v", want, err)
	}
	got := ev.Kind.String()
	if ev.Key != "" {
		got += fmt.Sprintf(" %s %v", ev.Key, ev.Value)
	}
	if ev.Prev != nil {
		got += fmt.Sprintf(" (%v)", ev.Prev.Value)
	}
	if got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	return ev
}

func words(s *kv.Store) *kv.Typed[string] { return kv.NewTyped(s, codec.String(), "w") }

func TestWatch(t *testing.T) {
	ctx := t.Context()
	s, _ := newCounted(t)
	ws := words(s)
	put := func(key, v string) kv.Entry[string] {
		t.Helper()
		return must[kv.Entry[string]](t)(ws.Put(ctx, key, v))
	}
	put("a", "1")
	plain := must[*kv.Watch[string]](t)(ws.Watch(ctx, ""))
	defer plain.Close()
	prev := must[*kv.Watch[string]](t)(ws.Watch(ctx, "", kv.FromSnapshot(), kv.WithPrev()))
	defer prev.Close()
	names := must[*kv.Watch[string]](t)(ws.Watch(ctx, "", kv.FromSnapshot(), kv.KeysOnly(), kv.WithPrev()))
	defer names.Close()
	one := must[*kv.Watch[string]](t)(ws.WatchKey(ctx, "b", kv.FromSnapshot()))
	defer one.Close()
	told(t, one, "synced") // it need not exist

	put("a", "2")
	b := put("b", "1")
	put("b/below", "x")
	if err := ws.Delete(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	told(t, plain, "updated a 2")
	if ev := told(t, plain, "created b 1"); ev.Entry != b {
		t.Errorf("the event has %+v, Put gave %+v", ev.Entry, b)
	}
	told(t, plain, "created b/below x")
	if ev := told(t, plain, "deleted b "); ev.Revision <= b.Revision || ev.Token == "" {
		t.Errorf("the delete: %+v", ev)
	}
	told(t, prev, "existing a 1")
	told(t, prev, "synced")
	told(t, prev, "updated a 2 (1)")
	told(t, prev, "created b 1")
	told(t, prev, "created b/below x")
	told(t, prev, "deleted b  (1)")
	told(t, names, "existing a ")
	told(t, names, "synced")
	if ev := told(t, names, "updated a  ()"); ev.Revision == 0 || ev.Prev.Revision == 0 {
		t.Errorf("without its value: %+v", ev)
	}
	told(t, one, "created b 1")
	told(t, one, "deleted b ")

	// Of a key that is there.
	there := must[*kv.Watch[string]](t)(ws.WatchKey(ctx, "a", kv.FromSnapshot()))
	defer there.Close()
	told(t, there, "existing a 2")
	told(t, there, "synced")
}

// TestWatchUndecodable is R44: the error comes with its event, and the stream
// goes on.
func TestWatchUndecodable(t *testing.T) {
	ctx := t.Context()
	s, _ := newCounted(t)
	ns := kv.NewTyped(s, codec.JSON[int](), "n")
	old := must[kv.Entry[[]byte]](t)(s.Put(ctx, "n/a", []byte("secret")))
	w := must[*kv.Watch[int]](t)(ns.Watch(ctx, "", kv.FromSnapshot(), kv.WithPrev()))
	bad := must[kv.Entry[[]byte]](t)(s.Put(ctx, "n/b", []byte("secret")))
	must[kv.Entry[int]](t)(ns.Put(ctx, "b", 1))
	var got []kv.Kind
	for ev, err := range w.Events() {
		got = append(got, ev.Kind)
		switch len(got) {
		case 1:
			badValue(t, err, "a", old.Revision)
		case 3:
			badValue(t, err, "b", bad.Revision)
			if ev.Key != "b" || ev.Revision != bad.Revision {
				t.Errorf("it comes with %+v", ev)
			}
		default:
			if err != nil {
				t.Error(err)
			}
		}
		if ev.Kind == kv.Updated {
			if ev.Value != 1 || ev.Prev != nil {
				t.Errorf("got %+v", ev)
			}
			break
		}
	}
	if fmt.Sprint(got) != "[existing synced created updated]" {
		t.Errorf("got %v", got)
	}
	// Leaving the loop has closed the watch.
	matches(t, "after the loop", must1(w.Next(ctx)), kv.ErrClosed)
}

// TestWatchEnds: why, again and again, and what ends only the call.
func TestWatchEnds(t *testing.T) {
	why := errors.New("the user went home")
	s, _ := newCounted(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
	once, end := context.WithCancel(t.Context())
	end()
	matches(t, "a call whose context ended", must1(w.Next(once)), context.Canceled)
	must[kv.Entry[[]byte]](t)(s.Put(t.Context(), "k", nil))
	told(t, w, "created k []")
	cancel(why)
	for range 2 {
		matches(t, "the stream's context ended", must1(w.Next(t.Context())), context.Canceled, why)
	}
	w.Close()
	matches(t, "then closed", must1(w.Next(t.Context())), context.Canceled, why)
	matches(t, "Sync", w.Sync(t.Context()), context.Canceled, why)

	ctx, cancel = context.WithCancelCause(t.Context())
	w = must[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	cancel(why) // too late to be the reason
	matches(t, "closed", must1(w.Next(t.Context())), kv.ErrClosed)
	matches(t, "Sync of a closed one", w.Sync(t.Context()), kv.ErrClosed)
	n := 0
	for _, err := range w.Events() {
		n++
		matches(t, "Events of a closed one", err, kv.ErrClosed)
	}
	if n != 1 {
		t.Errorf("%d errors from Events", n)
	}
}

// TestWatchSync: who keeps what the events say has all complete writes when
// Sync returns; WithProgress it is told so.
func TestWatchSync(t *testing.T) {
	ctx := limited(t)
	s, _ := newCounted(t)
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "", kv.WithProgress()))
	quiet := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
	defer quiet.Close()
	seen := make(chan kv.Revision, 1)
	go func() {
		defer close(seen)
		var last, progress kv.Revision
		for ev, err := range w.Events() {
			switch {
			case errors.Is(err, kv.ErrClosed):
				seen <- progress
				return
			case err != nil:
				t.Error(err)
				return
			case ev.Kind == kv.Progress:
				if ev.Revision < last || ev.Token == "" || ev.Key != "" {
					t.Errorf("progress %+v after %d", ev, last)
				}
				progress = ev.Revision
			case ev.Revision <= last || ev.Revision <= progress:
				t.Errorf("event %d after %d, progress %d", ev.Revision, last, progress)
			default:
				last = ev.Revision
			}
		}
	}()
	var last kv.Revision
	for i := range 200 {
		last = must[kv.Entry[[]byte]](t)(s.Put(ctx, "k", fmt.Append(nil, i))).Revision
		if i%10 == 0 {
			if err := w.Sync(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got := <-seen; got < last {
		t.Errorf("progress until %d, the last write is %d", got, last)
	}
	for i := range 200 { // no Progress for who did not ask
		want := "updated"
		if i == 0 {
			want = "created"
		}
		if ev := must[kv.Event[[]byte]](t)(quiet.Next(ctx)); ev.Kind.String() != want {
			t.Fatalf("event %d is %v", i, ev.Kind)
		}
	}
	// Without a reader it waits for one.
	short, cancel := context.WithCancel(ctx)
	cancel()
	matches(t, "Sync without a reader", quiet.Sync(short), context.Canceled)
}

// TestResume is R21 in memory: another client goes on where one stopped.
func TestResume(t *testing.T) {
	ctx := t.Context()
	b := memkv.New(memkv.Options{WatchBuffer: 20_000})
	peer := kv.New(b.Peer())
	defer peer.Close()
	s := kv.New(b)
	ws := words(s)
	w := must[*kv.Watch[string]](t)(ws.Watch(ctx, ""))
	for i := range 10 {
		must[kv.Entry[string]](t)(ws.Put(ctx, fmt.Sprint(i), "v"))
	}
	var token kv.Token
	for i := range 4 {
		token = told(t, w, fmt.Sprintf("created %d v", i)).Token
	}
	s.Close()
	again := must[*kv.Watch[string]](t)(words(peer).Watch(ctx, "", kv.Resume(token)))
	defer again.Close()
	for i := 4; i < 10; i++ {
		token = told(t, again, fmt.Sprintf("created %d v", i)).Token
	}
	must[kv.Entry[string]](t)(words(peer).Put(ctx, "live", "v"))
	told(t, again, "created live v")

	matches(t, "of another prefix", must1(peer.Watch(ctx, "x", kv.Resume(token))), kv.ErrInvalid)
	matches(t, "of a key", must1(peer.WatchKey(ctx, "w", kv.Resume(token))), kv.ErrInvalid)
	matches(t, "malformed", must1(words(peer).Watch(ctx, "", kv.Resume("x"))), kv.ErrInvalid)
	matches(t, "empty", must1(words(peer).Watch(ctx, "", kv.Resume(""))), kv.ErrInvalid)
	other, _ := newCounted(t)
	matches(t, "of another store", must1(words(other).Watch(ctx, "", kv.Resume(token))), kv.ErrHistoryLost)
	for i := range 500 { // more than the history holds
		must[kv.Entry[string]](t)(words(peer).Put(ctx, "live", fmt.Sprint(i)))
	}
	matches(t, "beyond the history", must1(words(peer).Watch(ctx, "", kv.Resume(token))), kv.ErrHistoryLost)
	without := kv.New(&tapped{Store: memkv.New(memkv.Options{}), lossy: true})
	defer without.Close()
	matches(t, "without history", must1(words(without).Watch(ctx, "", kv.Resume(token))), errors.ErrUnsupported)
	matches(t, "empty, without history", must1(words(without).Watch(ctx, "", kv.Resume(""))), errors.ErrUnsupported)
}

// TestValuesAreTheReaders: R8, a slice that was returned aliases nothing.
func TestValuesAreTheReaders(t *testing.T) {
	ctx := t.Context()
	s, _ := newCounted(t)
	value := []byte("value")
	first := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
	defer first.Close()
	second := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
	defer second.Close()
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "k", value))
	clear(value)
	clear(must[kv.Entry[[]byte]](t)(s.Get(ctx, "k")).Value)
	clear(must[kv.Event[[]byte]](t)(first.Next(ctx)).Value)
	for e, err := range s.List(ctx, "") {
		if err != nil || string(e.Value) != "value" {
			t.Errorf("the list has %q, %v", e.Value, err)
		}
		clear(e.Value)
	}
	clear(must[[]kv.Lookup[[]byte]](t)(s.GetMany(ctx, []string{"k"}))[0].Value)
	if ev := must[kv.Event[[]byte]](t)(second.Next(ctx)); string(ev.Value) != "value" {
		t.Errorf("the other watch has %q", ev.Value)
	}
	if e := must[kv.Entry[[]byte]](t)(s.Get(ctx, "k")); string(e.Value) != "value" {
		t.Errorf("the store has %q", e.Value)
	}
	value = []byte("value")
	reg := must[*kv.Registration[[]byte]](t)(s.Register(ctx, "r", value, time.Minute))
	clear(value)
	for range 2 {
		got := reg.Entry().Value
		if string(got) != "value" {
			t.Errorf("the registration has %q", got)
		}
		clear(got)
	}
	value = []byte("other")
	if err := reg.Update(ctx, value); err != nil {
		t.Fatal(err)
	}
	clear(value)
	if got := reg.Entry().Value; string(got) != "other" {
		t.Errorf("after an update the registration has %q", got)
	}
}

// TestWatchOpensAgain: a watch that could not be opened leaves nothing in the
// way of the next, and one that fails for its own context none of the others.
func TestWatchOpensAgain(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t)
	b.failNext(kv.OpWatch, backend.ErrUnavailable)
	matches(t, "refused", must1(s.Watch(ctx, "")), kv.ErrUnavailable)
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
	defer w.Close()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	matches(t, "with an ended context", must1(s.Watch(ended, "", kv.FromSnapshot())), context.Canceled)
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "k", []byte("v")))
	told(t, w, "created k [118]")
}
