//go:build !race

package rediskv_test

const raceEnabled = false
