package backendtest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/polykv/kv/backend"
)

// Change is one write that a test made to one key, as its writer knows it.
type Change struct {
	Key      string
	Delete   bool
	Value    []byte           // of a put; no two puts of one key share one, or the validator cannot tell them apart
	Revision backend.Revision // of a put that was acknowledged
	// Uncertain is set when the reply was lost: the change was applied once, at
	// any time after it was made, or was not. A server may try on its own for
	// seconds, and so beyond changes that its writer makes afterwards.
	Uncertain bool
}

// Validator judges one stream of events: first each event against those before
// it (Observe), then the whole against the writes that were made (Complete).
//
// What it demands of every stream: nothing outside the watch's scope; Existing
// only before Synced, once for each key; Created only of a key that was absent,
// Updated and Deleted only of one that was there; a previous value that is the
// one before; revisions of a key that grow.
//
// On a Lossless store: one order over all keys, nothing at or below a point
// that was declared complete, and every write exactly once. Elsewhere the
// last state of every key, and a Deleted wherever a key was deleted and made
// again (R18, R22).
type Validator struct {
	Prefix  string
	Options backend.WatchOptions // as the watch was opened; Resume is not looked at
	Caps    backend.Capabilities
	// Others is set if keys are written of which Complete is not told, because
	// nobody knows the order of their changes.
	Others bool

	keys     map[string]*keyStream
	synced   bool             // no Existing may follow
	resync   bool             // between Resynced and Synced
	complete backend.Revision // of the last Synced or Progress
	snapshot backend.Revision // of the first Synced
	last     backend.Revision // of the last change
}

// keyStream is what the stream told of one key.
type keyStream struct {
	began  bool           // was there when the watch began
	now    *backend.Entry // nil: absent
	rev    backend.Revision
	events []backend.Event
}

// Begin tells what was there when a watch without Snapshot began.
func (v *Validator) Begin(entries ...backend.Entry) {
	v.init()
	for _, ent := range entries {
		v.keys[ent.Key] = &keyStream{began: true, now: &ent, rev: ent.Revision}
	}
}

func (v *Validator) init() {
	if v.keys == nil {
		v.keys = map[string]*keyStream{}
		v.synced = !v.Options.Snapshot
	}
}

// covers reports whether key is in the watch's scope.
func (v *Validator) covers(key string) bool {
	if v.Options.Key {
		return key == v.Prefix
	}
	return v.Prefix == "" && key != "" || strings.HasPrefix(key, v.Prefix+"/") && len(key) > len(v.Prefix)+1
}

// Observe takes the stream's next event.
func (v *Validator) Observe(ev backend.Event) error {
	v.init()
	fail := func(format string, args ...any) error {
		return fmt.Errorf("event %v of %q at revision %d (value %q): %s", ev.Kind, ev.Key, ev.Revision, short(ev.Value), fmt.Sprintf(format, args...))
	}
	switch ev.Kind {
	case backend.Synced, backend.Resynced, backend.Progress:
		return v.mark(ev, fail)
	}
	if !v.covers(ev.Key) {
		return fail("outside the watch of %q (key: %v)", v.Prefix, v.Options.Key)
	}
	k := v.keys[ev.Key]
	if k == nil {
		k = &keyStream{}
		v.keys[ev.Key] = k
	}
	if err := v.order(k, ev, fail); err != nil {
		return err
	}
	switch ev.Kind {
	case backend.Existing:
		if v.synced {
			return fail("after Synced")
		}
		if k.now != nil {
			return fail("the key was delivered already")
		}
	case backend.Created:
		if k.now != nil {
			return fail("the key was there, at revision %d", k.now.Revision)
		}
	case backend.Updated, backend.Deleted:
		if k.now == nil {
			return fail("the key was absent")
		}
	default:
		return fail("unknown kind")
	}
	if ev.Kind != backend.Existing && !v.synced {
		return fail("a change before Synced")
	}
	if ev.Kind == backend.Deleted && len(ev.Value) != 0 {
		return fail("a delete has no value")
	}
	if ev.Kind != backend.Deleted && ev.Revision == 0 {
		return fail("no revision")
	}
	if err := v.prev(k, ev, fail); err != nil {
		return err
	}
	if ev.Token != "" && !v.Caps.Resumable {
		return fail("a token, though Resumable is unset")
	}
	if ev.Token == "" && v.Caps.Resumable && ev.Kind != backend.Existing {
		return fail("no token, though Resumable is set")
	}
	k.events = append(k.events, ev)
	if k.rev = max(k.rev, ev.Revision); ev.Kind == backend.Deleted {
		k.now = nil
	} else {
		ent := ev.Entry
		ent.Value = bytes.Clone(ent.Value)
		k.now = &ent
	}
	return nil
}

type failure func(format string, args ...any) error

// mark takes an event that is of no key.
func (v *Validator) mark(ev backend.Event, fail failure) error {
	if ev.Key != "" || ev.Value != nil || ev.Prev != nil {
		return fail("has more than a revision")
	}
	switch ev.Kind {
	case backend.Resynced:
		if v.Caps.Lossless {
			return fail("on a lossless store")
		}
		if v.resync || !v.synced {
			return fail("before the last one was complete")
		}
		v.resync = true
		return nil
	case backend.Synced:
		if v.synced && !v.resync {
			return fail("though nothing was being synchronised")
		}
		if !v.synced {
			v.snapshot = ev.Revision
		}
		v.synced, v.resync = true, false
	}
	if v.Caps.Lossless {
		// 0 is right for a store that was never written to.
		if ev.Revision < v.complete || ev.Revision < v.last {
			return fail("a step back: %d was delivered, %d was complete", v.last, v.complete)
		}
		for key, k := range v.keys {
			if n := len(k.events); v.Others && n > 0 && k.events[n-1].Kind == backend.Existing {
				continue // what is listed beside others' writes may be newer than the mark
			}
			if k.rev > ev.Revision {
				return fail("below %q at revision %d, which was delivered", key, k.rev)
			}
		}
		v.complete = ev.Revision
	}
	return nil
}

// order checks ev's revision against those before.
func (v *Validator) order(k *keyStream, ev backend.Event, fail failure) error {
	if ev.Revision != 0 && ev.Revision <= k.rev {
		return fail("the key was at revision %d already", k.rev)
	}
	if !v.Caps.Lossless || ev.Kind == backend.Existing {
		return nil
	}
	if ev.Revision == 0 {
		return fail("no revision, on a lossless store")
	}
	if ev.Revision <= v.complete {
		return fail("everything up to %d was declared complete", v.complete)
	}
	if ev.Revision < v.last {
		return fail("comes after revision %d", v.last)
	}
	v.last = ev.Revision
	return nil
}

func (v *Validator) prev(k *keyStream, ev backend.Event, fail failure) error {
	replaces := ev.Kind == backend.Updated || ev.Kind == backend.Deleted
	switch {
	case ev.Prev == nil:
		return nil // it may be gone by now; whoever knows that it is not demands it
	case !v.Options.Prev:
		return fail("a previous entry that was not asked for")
	case !replaces:
		return fail("a previous entry, though there was none")
	}
	if ev.Prev.Key != ev.Key || ev.Prev.Revision != k.now.Revision || !bytes.Equal(ev.Prev.Value, k.now.Value) {
		return fail("the previous entry is %q at %d, it was %q at %d", short(ev.Prev.Value), ev.Prev.Revision, short(k.now.Value), k.now.Revision)
	}
	return nil
}

// Now is the state that the stream has told so far, by key.
func (v *Validator) Now() map[string]backend.Entry {
	now := map[string]backend.Entry{}
	for key, k := range v.keys {
		if k.now != nil {
			now[key] = *k.now
		}
	}
	return now
}

// Complete judges the stream against all changes that were made since the
// watch began (with Snapshot: since the store was empty), once everything of
// them must have been delivered. The changes of one key are in the order in
// which they were made, so each key has one writer.
func (v *Validator) Complete(changes []Change) error {
	v.init()
	if !v.synced || v.resync {
		return fmt.Errorf("the stream ends before Synced")
	}
	byKey := map[string][]Change{}
	for _, c := range changes {
		if v.covers(c.Key) {
			byKey[c.Key] = append(byKey[c.Key], c)
		}
	}
	for key, k := range v.keys {
		if len(k.events) > 0 && byKey[key] == nil && !v.Others {
			return fmt.Errorf("%d events of %q, which nobody wrote; the first: %v", len(k.events), key, k.events[0])
		}
	}
	for key, made := range byKey {
		k := v.keys[key]
		if k == nil {
			k = &keyStream{}
		}
		if err := once(made, k.events); err != nil {
			return err
		}
		m := matching{v: v, began: k.began, changes: made, events: k.events, seen: map[point]bool{}}
		if !m.begins() {
			return fmt.Errorf("the events of %q do not match its writes.\nwrites: %s\nevents: %s", key, printChanges(made), printEvents(k.events))
		}
	}
	return nil
}
