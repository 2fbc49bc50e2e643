package prove

import (
	"context"
	"testing"
	"time"
)

// TestSoak is a short one, on the stores that need no server; the long ones are those of make prove.
func TestSoak(t *testing.T) {
	for _, o := range Openers()[:2] {
		t.Run(o.Name, func(t *testing.T) {
			t.Parallel()
			res, err := soakAlone(t.Context(), o.Name, 5*time.Second)
			if err != nil {
				t.Error(err)
			}
			if res.Cycles == 0 || res.Last["goroutines"] == 0 {
				t.Errorf("nothing was measured: %v", res)
			}
			t.Log(res)
		})
	}
}

// TestSoakFails: what a soak cannot do comes back as its error.
func TestSoakFails(t *testing.T) {
	if res, err := soakAlone(t.Context(), "nothing", time.Second); err == nil {
		t.Errorf("%v of a target that is not there", res)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if res, err := soakAlone(ctx, "memory", time.Hour); err == nil {
		t.Errorf("%v of a soak that was interrupted", res)
	}
}
