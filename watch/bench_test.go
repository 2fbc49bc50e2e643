package watch_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/watch"
)

func benchMirror(b *testing.B, keys int) (*kv.Typed[int], *watch.Mirror[int]) {
	s := newStore(b)
	src := numbers(s)
	for i := range keys {
		put(b, src, fmt.Sprintf("dir%d/%d", i%100, i), i)
	}
	return src, newMirror(b, src)
}

// BenchmarkExisting is what one entry costs a new subscriber.
func BenchmarkExisting(b *testing.B) {
	const keys = 50_000
	_, m := benchMirror(b, keys)
	ctx := context.Background()
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += keys {
		sub := m.Subscribe()
		for range min(keys, b.N-n) {
			if _, err := sub.Next(ctx); err != nil {
				b.Fatal(err)
			}
		}
		sub.Close()
	}
}

// BenchmarkFanOut is what one change costs, from its write until each of the
// subscribers has read it.
func BenchmarkFanOut(b *testing.B) {
	for _, subscribers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(subscribers), func(b *testing.B) {
			src, m := benchMirror(b, 1000)
			done := make(chan error)
			for range subscribers {
				sub := m.Subscribe(watch.Buffer(1 << 20))
				go func() {
					defer sub.Close()
					for {
						ev, err := sub.Next(context.Background())
						if err != nil || ev.Key == "end" {
							done <- err
							return
						}
					}
				}()
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				put(b, src, fmt.Sprintf("dir%d/%d", i%100, i%1000), i)
			}
			put(b, src, "end", 0)
			for range subscribers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
