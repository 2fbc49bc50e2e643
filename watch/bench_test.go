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

// BenchmarkBehind is what one change costs a subscriber that has it waiting:
// one by one, and merged beyond its buffer.
func BenchmarkBehind(b *testing.B) {
	const changes = 1000 // less than a stage
	for _, buffer := range []int{1, 1 << 20} {
		b.Run(fmt.Sprint("buffer ", buffer), func(b *testing.B) {
			src, m := benchMirror(b, 1000)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += changes {
				b.StopTimer()
				sub := m.Subscribe(watch.Buffer(buffer))
				if until(b, sub, "") != m.Len() {
					b.Fatal("not all is there")
				}
				for i := range changes {
					put(b, src, fmt.Sprintf("dir%d/%d", i%100, i), i)
				}
				last := put(b, src, "end", n)
				if err := m.Sync(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				for ev := (kv.Event[int]{}); ev.Revision != last.Revision; {
					var err error
					if ev, err = sub.Next(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				sub.Close()
			}
		})
	}
}

// BenchmarkFanOut is what one change costs, from its write until each of the
// subscribers has read it, and of that each one's part.
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
			b.ReportMetric(float64(b.Elapsed())/float64(b.N*subscribers), "ns/event")
		})
	}
}
