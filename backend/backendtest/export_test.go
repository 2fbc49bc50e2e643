package backendtest

import "time"

// Impatient returns h, given up on by its cases after d.
func (h Harness) Impatient(d time.Duration) Harness {
	h.patience = d
	return h
}
