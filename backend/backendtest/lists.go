package backendtest

import (
	"fmt"
	"slices"

	"github.com/polykv/kv/backend"
)

func listCases() []testCase {
	return []testCase{
		{
			name: "R14/keys come in byte order, which is not the order of a tree's walk",
			why:  "- and . sort before /, so a-b stands between a and a/b",
			run: func(e *env) {
				keys := []string{"A", "a", "a b", "a!", "a-b", "a-b/c", "a.b", "a/b", "a/b/c", "a/b-c", "a0", "aa", "b", "é", "日", "😀", "\uffff"}
				slices.Sort(keys)
				shuffled := slices.Clone(keys)
				slices.Reverse(shuffled)
				e.fill(e.s, shuffled, func(k string) string { return "value of " + k })
				got := e.list(e.s, "", backend.ListOptions{})
				if !slices.Equal(keysOf(got), keys) {
					e.Fatalf("List yields %q, want %q", keysOf(got), keys)
				}
				for _, ent := range got {
					if string(ent.Value) != "value of "+ent.Key {
						e.Errorf("%q has value %q", ent.Key, ent.Value)
					}
				}
				e.lists(e.s, "a", backend.ListOptions{}, "a/b", "a/b-c", "a/b/c")
			},
		},
		{
			name: "R14/an entry is whole: value, revision, nothing made up",
			run: func(e *env) {
				revs := map[string]backend.Revision{}
				for _, k := range []string{"a", "d/b", "d/c/x"} {
					revs[k] = e.put(e.s, k, "value of "+k).Revision
				}
				for _, ent := range e.list(e.s, "", backend.ListOptions{}) {
					if ent.Revision != revs[ent.Key] || string(ent.Value) != "value of "+ent.Key || !ent.Expires.IsZero() {
						e.Errorf("List yields %+v, want revision %d and the value as put", ent, revs[ent.Key])
					}
					if ent.Created != 0 && ent.Created != revs[ent.Key] {
						e.Errorf("List: %q has Created %d, want %d or 0", ent.Key, ent.Created, revs[ent.Key])
					}
				}
				for _, ent := range e.list(e.s, "", backend.ListOptions{KeysOnly: true}) {
					if ent.Revision != revs[ent.Key] || ent.Value != nil {
						e.Errorf("List of keys yields %+v, want revision %d and no value", ent, revs[ent.Key])
					}
				}
			},
		},
		{
			name: "R14/many pages are one list",
			why:  "page limits show only beyond the first page: a key at a boundary is lost or repeated",
			run: func(e *env) {
				keys := numbered("d/k", 1500)
				e.fill(e.s, keys, func(k string) string { return "value of " + k })
				for _, o := range []backend.ListOptions{
					{}, {KeysOnly: true}, {Limit: 1}, {Limit: 1499}, {Limit: 1500}, {Limit: 5000},
					{After: keys[0]}, {After: keys[998], Limit: 100}, {After: keys[1498]}, {After: keys[1499]},
				} {
					from, _ := slices.BinarySearch(keys, o.After+"\x00") // the first key after it
					if o.After == "" {
						from = 0
					}
					want := keys[from:]
					if o.Limit > 0 && o.Limit < len(want) {
						want = want[:o.Limit]
					}
					got := e.list(e.s, "d", o)
					if !slices.Equal(keysOf(got), want) {
						e.Fatalf("List(%+v) yields %d keys, want %d: %s", o, len(got), len(want), firstDifference(keysOf(got), want))
					}
					for _, ent := range got {
						if !o.KeysOnly && string(ent.Value) != "value of "+ent.Key {
							e.Fatalf("List(%+v): %q has value %q", o, ent.Key, ent.Value)
						}
					}
				}
			},
		},
		{
			name: "R14/paging by Limit and After sees every key once",
			run: func(e *env) {
				keys := []string{"a", "a-b", "a.b", "a/b", "a/b/c", "a0", "b/x", "b0", "😀/x", "\x01", "%"}
				slices.Sort(keys)
				e.fill(e.s, keys, func(string) string { return "v" })
				for _, limit := range []int{1, 2, 3} {
					var got []string
					after := ""
					for {
						page := keysOf(e.list(e.s, "", backend.ListOptions{Limit: limit, After: after}))
						if len(page) > limit {
							e.Fatalf("a page of %d has %d keys", limit, len(page))
						}
						got = append(got, page...)
						if len(page) < limit {
							break
						}
						after = page[len(page)-1]
					}
					if !slices.Equal(got, keys) {
						e.Errorf("in pages of %d: %q, want %q", limit, got, keys)
					}
				}
			},
		},
		{
			name: "R14/After is a point in the order, not a key that has to exist",
			run: func(e *env) {
				e.fill(e.s, []string{"d/b", "d/d", "d/d/x", "d/f", "e"}, func(string) string { return "v" })
				for after, want := range map[string][]string{
					"":      {"d/b", "d/d", "d/d/x", "d/f"},
					"a":     {"d/b", "d/d", "d/d/x", "d/f"}, // before the prefix
					"d":     {"d/b", "d/d", "d/d/x", "d/f"}, // the prefix itself
					"d/a":   {"d/b", "d/d", "d/d/x", "d/f"},
					"d/b":   {"d/d", "d/d/x", "d/f"},
					"d/c":   {"d/d", "d/d/x", "d/f"},
					"d/d":   {"d/d/x", "d/f"},
					"d/d/x": {"d/f"},
					"d/f":   nil,
					"d/z":   nil,
					"e":     nil, // beyond the prefix
				} {
					e.lists(e.s, "d", backend.ListOptions{After: after}, want...)
				}
			},
		},
		{
			name: "R14/Children are the keys directly below and the directories, a name that is both twice",
			why:  "an ls wants to see a directory that holds no value of its own",
			run: func(e *env) {
				e.fill(e.s, []string{"a", "a-b", "a/b", "a/c", "d/e/f", "d/e/g", "d/h", "z"}, func(k string) string { return "value of " + k })
				children := backend.ListOptions{Children: true}
				e.lists(e.s, "", children, "a", "a-b", "a/", "d/", "z")
				e.lists(e.s, "a", children, "a/b", "a/c")
				e.lists(e.s, "d", children, "d/e/", "d/h")
				e.lists(e.s, "d/e", children, "d/e/f", "d/e/g")
				e.lists(e.s, "z", children)
				for _, o := range []backend.ListOptions{children, {Children: true, KeysOnly: true}} {
					for _, ent := range e.list(e.s, "", o) {
						switch {
						case ent.IsDir():
							if ent.Revision != 0 || ent.Value != nil || ent.Created != 0 || !ent.Expires.IsZero() {
								e.Errorf("List(%+v): directory %+v has more than a name", o, ent)
							}
						case ent.Revision == 0, !o.KeysOnly && string(ent.Value) != "value of "+ent.Key, o.KeysOnly && ent.Value != nil:
							e.Errorf("List(%+v) yields %+v", o, ent)
						}
					}
				}
			},
		},
		{
			name: "R14/Children page by Limit and After, directories too",
			why:  "continuing after a directory must skip all that lies below it, but not a-b beside a/",
			run: func(e *env) {
				e.fill(e.s, []string{"a", "a-b", "a/b", "a/c", "a0", "d/e/f", "d/h", "d!", "z"}, func(string) string { return "v" })
				want := []string{"a", "a-b", "a/", "a0", "d!", "d/", "z"}
				e.lists(e.s, "", backend.ListOptions{Children: true}, want...)
				for i, after := range want {
					e.lists(e.s, "", backend.ListOptions{Children: true, After: after}, want[i+1:]...)
					e.lists(e.s, "", backend.ListOptions{Children: true, After: after, Limit: 2}, want[i+1:min(i+3, len(want))]...)
				}
				e.lists(e.s, "d", backend.ListOptions{Children: true, After: "d/e/"}, "d/h")
				e.lists(e.s, "", backend.ListOptions{Children: true, After: "a/b"}, "a0", "d!", "d/", "z")
			},
		},
		{
			name: "R14/Children of many directories, each with many keys",
			why:  "a driver that pages over keys to find directories repeats one at a page's end",
			run: func(e *env) {
				var keys, want []string
				for i := range 30 {
					dir := fmt.Sprintf("d%02d", i)
					keys = append(keys, numbered(dir+"/k", 50)...)
					want = append(want, dir+"/")
				}
				e.fill(e.s, keys, func(string) string { return "v" })
				e.lists(e.s, "", backend.ListOptions{Children: true}, want...)
				e.lists(e.s, "", backend.ListOptions{Children: true, Limit: 7, After: want[9]}, want[10:17]...)
			},
		},
	}
}

// firstDifference tells where two lists part.
func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("at %d stands %q, want %q", i, got[i], want[i])
		}
	}
	if len(got) > len(want) {
		return fmt.Sprintf("%q is too much", got[len(want)])
	}
	if len(want) > len(got) {
		return fmt.Sprintf("%q is missing", want[len(got)])
	}
	return "none"
}
