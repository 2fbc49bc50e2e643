//go:build race

package codec

const raceEnabled = true // sync.Pool drops items at random
