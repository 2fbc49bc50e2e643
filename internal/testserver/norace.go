//go:build !race

package testserver

// Race is set in tests with the race detector.
const Race = false
