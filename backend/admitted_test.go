package backend

import "testing"

func TestAdmitted(t *testing.T) {
	x, s := Place{}, Place{Shared: true}
	two, three := Place{Slots: 2}, Place{Slots: 3}
	for name, c := range map[string]struct {
		queue []Place
		i     int
		ok    bool
		wait  int
	}{
		"alone":                       {[]Place{x}, 0, true, 0},
		"exclusive behind exclusive":  {[]Place{x, x, x}, 2, false, 1},
		"exclusive behind shared":     {[]Place{s, s, x}, 2, false, 1},
		"shared behind shared":        {[]Place{s, s, s}, 2, true, 0},
		"shared behind exclusive":     {[]Place{x, s}, 1, false, 0},
		"shared behind one that does": {[]Place{s, x, s, s}, 3, false, 1},
		"slots: the last of them":     {[]Place{three, three, three}, 2, true, 0},
		"slots: one too many":         {[]Place{two, two, two}, 2, false, -1},
		"slots behind exclusive":      {[]Place{two, x, two}, 2, false, 1},
		"slots behind shared":         {[]Place{s, s, three}, 2, false, 1},
		"shared behind slots":         {[]Place{three, s}, 1, false, 0},
		"one slot is exclusive":       {[]Place{{Slots: 1}, {Slots: 1}}, 1, false, 0},
		"the head":                    {[]Place{two, x, s}, 0, true, 0},
	} {
		ok, wait := Admitted(c.queue, c.i)
		if ok != c.ok || !ok && wait != c.wait {
			t.Errorf("%s: Admitted = %v, %d, want %v, %d", name, ok, wait, c.ok, c.wait)
		}
	}
}

// Whatever the queue: its head holds, an exclusive one holds alone, a share
// beside shares only, one with slots beside such only, and no more than Slots at
// once; and who waits for the leaving of one place waits for one that is ahead
// of it.
func TestAdmittedProperties(t *testing.T) {
	kinds := []Place{{}, {Shared: true}, {Slots: 3}}
	var queues func(n int) [][]Place
	queues = func(n int) [][]Place {
		if n == 0 {
			return [][]Place{nil}
		}
		var all [][]Place
		for _, q := range queues(n - 1) {
			for _, k := range kinds {
				all = append(all, append(append([]Place(nil), q...), k))
			}
		}
		return all
	}
	for n := 1; n <= 6; n++ {
		for _, q := range queues(n) {
			exclusive, shared, slots := 0, 0, 0
			for i, p := range q {
				ok, wait := Admitted(q, i)
				switch {
				case i == 0 && !ok:
					t.Fatalf("%v: the head does not hold", q)
				case !ok && (wait < -1 || wait >= i || wait == -1 && p.Slots == 0):
					t.Fatalf("%v: %d waits for %d", q, i, wait)
				case ok && p.Shared:
					shared++
				case ok && p.Slots > 1:
					slots++
				case ok:
					exclusive++
				}
			}
			if exclusive > 1 || slots > 3 || min(exclusive, shared)+min(exclusive, slots)+min(shared, slots) > 0 {
				t.Fatalf("%v: %d exclusive, %d shared and %d with slots hold", q, exclusive, shared, slots)
			}
		}
	}
	for slots := 2; slots <= 4; slots++ {
		held := 0
		q := make([]Place, 6)
		for i := range q {
			q[i] = Place{Slots: slots}
		}
		for i := range q {
			if ok, _ := Admitted(q, i); ok {
				held++
			}
		}
		if held != slots {
			t.Errorf("%d hold of %d slots", held, slots)
		}
	}
}
