//go:build race

package testserver

// Race is set in tests with the race detector, which takes several times the processor time and has sync.Pool drop what it
// was given at random: what a call costs shows without it.
const Race = true
