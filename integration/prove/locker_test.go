package prove

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestTokensGrow(t *testing.T) {
	if err := tokensGrow([]hold{{token: 3, call: 0, granted: 9}, {token: 2, call: 1, granted: 4}, {token: 7, call: 5, granted: 12}}); err != nil {
		t.Errorf("good: %v", err)
	}
	for name, holds := range map[string][]hold{
		"one token twice":            {{token: 3, call: 0, granted: 1}, {token: 3, call: 2, granted: 3}},
		"a later one that is lower":  {{token: 3, call: 0, granted: 1}, {token: 2, call: 2, granted: 3}},
		"and not the next one to it": {{token: 3, call: 0, granted: 1}, {token: 4, call: 0, granted: 9}, {token: 2, call: 2, granted: 10}},
	} {
		if tokensGrow(holds) == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestFencedInOrder(t *testing.T) {
	if err := fencedInOrder([]fenced{{rev: 9, token: 4}, {rev: 5, token: 3}, {rev: 7, token: 3}}); err != nil {
		t.Errorf("good: %v", err)
	}
	if fencedInOrder([]fenced{{rev: 5, token: 3}, {rev: 7, token: 4}, {rev: 8, token: 3}}) == nil {
		t.Error("a write of a former holder: not found")
	}
}

// A lock that ends while the machine stands still has ended in time, whatever the clock says.
func TestEndsWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, late := range []time.Duration{0, overlap / 2, overlap + time.Second} {
			begin, done := time.Now(), make(chan struct{})
			timer := time.AfterFunc(late, func() { close(done) })
			if got := endsWithin(overlap, done, nil); got != (late < overlap) {
				t.Errorf("%v, of one that ends after %v", got, late)
			}
			if took := time.Since(begin); took > overlap {
				t.Errorf("it took %v", took)
			}
			timer.Stop()
		}
	})
	for range 100 { // both have happened
		done := make(chan struct{})
		close(done)
		if !endsWithin(0, nil, done) {
			t.Fatal("an end is not seen beside the time's")
		}
	}
}
