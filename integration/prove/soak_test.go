package prove

import (
	"testing"
	"time"
)

// TestSoak is a short one, on the stores that need no server; the long ones are those of make prove.
func TestSoak(t *testing.T) {
	for _, o := range Openers()[:2] {
		t.Run(o.Name, func(t *testing.T) {
			res, err := Soak(t.Context(), opened(t, o), 5*time.Second)
			if err != nil {
				t.Error(err)
			}
			t.Log(res)
		})
	}
}
