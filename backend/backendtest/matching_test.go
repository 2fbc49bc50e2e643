package backendtest

import (
	"testing"

	"github.com/polykv/kv/backend"
)

// Shorthands for changes of one key, and for what streams tell of them.
func wrote(v string, rev backend.Revision) Change {
	return Change{Key: "d/a", Value: []byte(v), Revision: rev}
}

func maybe(v string) Change { return Change{Key: "d/a", Value: []byte(v), Uncertain: true} }

func told(kind backend.Kind, v string, rev backend.Revision) backend.Event {
	return backend.Event{Kind: kind, Entry: backend.Entry{Key: "d/a", Value: []byte(v), Revision: rev}}
}

var (
	deleted      = Change{Key: "d/a", Delete: true}
	maybeDeleted = Change{Key: "d/a", Delete: true, Uncertain: true}
)

func gone(rev backend.Revision) backend.Event { return told(backend.Deleted, "", rev) }

func synced(rev backend.Revision) backend.Event {
	return backend.Event{Kind: backend.Synced, Entry: backend.Entry{Revision: rev}}
}

// A server may apply an uncertain change beyond those that its writer made
// afterwards: Consul's agents try again for seconds.
func TestUncertainChangesComeLate(t *testing.T) {
	const lossless, merges = true, false
	created, updated, existing := backend.Created, backend.Updated, backend.Existing
	for _, c := range []struct {
		name     string
		lossless bool
		made     []Change
		events   []backend.Event // with Existing or Synced first: of a watch with a snapshot
		right    bool
	}{
		{"a late delete that is told", merges, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2)}, []backend.Event{told(created, "1", 1), told(updated, "2", 2), gone(3)}, true},
		{"on a lossless store", lossless, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2)}, []backend.Event{told(created, "1", 1), told(updated, "2", 2), gone(3)}, true},
		{"a late delete that is merged with all before", merges, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2)}, nil, true},
		{"a late delete before the snapshot", merges, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2), wrote("3", 3)}, []backend.Event{synced(0)}, true},
		{"a late delete before the snapshot of a lossless store", lossless, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2)}, []backend.Event{synced(3)}, true},
		{"a late delete between puts that are merged", merges, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2), wrote("3", 4)}, []backend.Event{told(created, "1", 1), gone(0), told(created, "3", 4)}, true},
		{"a late delete that is told with what it removed merged", merges, []Change{wrote("1", 1), maybeDeleted, wrote("2", 3)}, []backend.Event{told(created, "1", 1), gone(0)}, true},
		{"a late put before the snapshot", merges, []Change{maybe("1"), wrote("2", 2)}, []backend.Event{told(existing, "1", 3), synced(0)}, true},
		{"a late put before the snapshot of a lossless store", lossless, []Change{maybe("1"), wrote("2", 2)}, []backend.Event{told(existing, "1", 3), synced(3)}, true},
		{"a late put after an acknowledged delete", lossless, []Change{maybe("1"), wrote("2", 2), deleted}, []backend.Event{told(created, "2", 2), gone(3), told(created, "1", 4)}, true},

		{"a delete that nobody asked for", merges, []Change{wrote("1", 1), wrote("2", 2)}, []backend.Event{told(created, "1", 1), told(updated, "2", 2), gone(3)}, false},
		{"two deletes for one", merges, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2), wrote("3", 4)}, []backend.Event{told(created, "1", 1), gone(0), told(created, "2", 2), gone(0), told(created, "3", 4)}, false},
		{"two deletes for one on a lossless store", lossless, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2)}, []backend.Event{told(created, "1", 1), gone(2), told(created, "2", 3), gone(4)}, false},
		{"an acknowledged put that only the delete before it could have removed", merges, []Change{wrote("1", 1), deleted, wrote("2", 3)}, []backend.Event{told(created, "1", 1), gone(0)}, false},
		{"a delete before it was asked for", lossless, []Change{wrote("1", 1), wrote("2", 3), maybeDeleted}, []backend.Event{told(created, "1", 1), gone(2), told(created, "2", 3)}, false},
		{"an acknowledged write that is lost", merges, []Change{wrote("1", 1), maybe("2"), wrote("3", 3)}, []backend.Event{told(created, "1", 1)}, false},
		{"and none before it was deleted", merges, []Change{maybe("1"), wrote("2", 2)}, nil, false},
		{"and not even before the snapshot", merges, []Change{wrote("1", 1), maybe("2")}, []backend.Event{synced(0)}, false},
		{"a merged delete on a lossless store", lossless, []Change{wrote("1", 1), maybeDeleted, wrote("2", 2)}, nil, false},
		{"acknowledged writes in another order", merges, []Change{wrote("1", 1), maybeDeleted, wrote("2", 3)}, []backend.Event{told(created, "2", 1), told(updated, "1", 3)}, false},
		{"an acknowledged delete that does not hold", merges, []Change{wrote("1", 1), maybe("2"), deleted}, []backend.Event{told(created, "1", 1)}, false},
		{"a put that comes twice", merges, []Change{maybe("1"), maybeDeleted, maybeDeleted}, []backend.Event{told(created, "1", 1), gone(0), told(created, "1", 3)}, false},
	} {
		o := backend.WatchOptions{Snapshot: len(c.events) > 0 && (c.events[0].Kind == existing || c.events[0].Kind == backend.Synced)}
		err := judge(c.events, c.made, o, backend.Capabilities{Lossless: c.lossless})
		if (err == nil) != c.right {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
