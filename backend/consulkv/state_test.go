package consulkv

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
)

// A watch of a key that is renewed long before it expires holds the last time of its expiry, not all that it ever had.
func TestExpiriesDoNotPileUp(t *testing.T) {
	s := New(nil, Options{Root: "r"})
	defer s.Close()
	st := newState(s, false)
	const rounds = 1000
	told := 0
	for i := range rounds {
		list := fmt.Sprintf(`[{"Key":"r/k","Flags":%d,"CreateIndex":1,"ModifyIndex":%d}]`, expiryFlags(time.Hour+time.Duration(i)*time.Second), i+1)
		_, err := st.compare(strings.NewReader(list), changePhase, func(backend.Event, uint64) error { told++; return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := len(st.due); n > 2+minDue {
		t.Errorf("%d times of expiry are held for one key", n)
	}
	last := false
	for _, d := range st.due {
		last = last || d.modify == rounds
	}
	if !last || told != rounds {
		t.Errorf("the last one is held: %v; %d of %d writes were told", last, told, rounds)
	}
}
