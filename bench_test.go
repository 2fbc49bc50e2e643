package kv_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/watch"
)

// record is a value of an ordinary size.
type record struct {
	Name, Address string
	Port          int
	Tags          []string
	Since         time.Time
}

var aRecord = record{
	Name: "orders-7", Address: "10.1.2.3", Port: 8443, Tags: []string{"eu", "blue"},
	Since: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC),
}

// BenchmarkLayers shows what each layer costs: the driver in memory, the Store
// on it, the Store with a prefix, and a Typed with each codec.
func BenchmarkLayers(b *testing.B) {
	bytes := make([]byte, 128)
	b.Run("driver", func(b *testing.B) {
		d := memkv.New(memkv.Options{})
		defer d.Close()
		ctx := context.Background()
		bench(b, "Put", func() error { _, err := d.Put(ctx, "services/orders", bytes, backend.PutOptions{}); return err })
		bench(b, "Get", func() error { _, err := d.Get(ctx, "services/orders", backend.GetOptions{}); return err })
	})
	layer(b, "raw", codec.Codec[[]byte](nil), bytes)
	layer(b, "bytes", codec.Bytes(), bytes)
	layer(b, "string", codec.String(), string(bytes))
	layer(b, "json", codec.JSON[record](), aRecord)
	layer(b, "msgpack", codec.Msgpack[record](), aRecord)
	layer(b, "proto", codec.Proto[*structpb.Value](), structpb.NewStringValue(string(bytes)))
}

func layer[T any](b *testing.B, name string, c codec.Codec[T], v T) {
	b.Run(name, func(b *testing.B) {
		s := kv.New(memkv.New(memkv.Options{}))
		defer s.Close()
		ctx := context.Background()
		if c == nil {
			raw := any(v).([]byte)
			bench(b, "Put", func() error { _, err := s.Put(ctx, "services/orders", raw); return err })
			bench(b, "Get", func() error { _, err := s.Get(ctx, "services/orders"); return err })
			return
		}
		t := kv.NewTyped(s, c, "services")
		bench(b, "Put", func() error { _, err := t.Put(ctx, "orders", v); return err })
		bench(b, "Get", func() error { _, err := t.Get(ctx, "orders"); return err })
	})
}

func bench(b *testing.B, name string, f func() error) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkEvents is one event on its way from the driver through the shared
// upstream to its reader, in the three ways to read. Writing is not measured.
func BenchmarkEvents(b *testing.B) {
	const burst = 256
	start := func(b *testing.B) (w *kv.Watch[[]byte], fill func()) {
		s := kv.New(memkv.New(memkv.Options{}))
		b.Cleanup(func() { s.Close() })
		w, err := s.Watch(context.Background(), "")
		if err != nil {
			b.Fatal(err)
		}
		value := make([]byte, 128)
		b.ReportAllocs()
		b.Cleanup(func() {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*burst), "ns/event")
		})
		return w, func() {
			b.StopTimer()
			for range burst {
				if _, err := s.Put(context.Background(), "k", value); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
		}
	}
	b.Run("Next", func(b *testing.B) {
		w, fill := start(b)
		for b.Loop() {
			fill()
			for range burst {
				if _, err := w.Next(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("Events", func(b *testing.B) {
		w, fill := start(b)
		if !b.Loop() {
			return
		}
		fill()
		n := 0
		for _, err := range w.Events() {
			if err != nil {
				b.Fatal(err)
			}
			if n++; n%burst == 0 {
				if !b.Loop() {
					break
				}
				fill()
			}
		}
	})
	b.Run("Chan", func(b *testing.B) {
		w, fill := start(b)
		ctx, cancel := context.WithCancel(context.Background())
		ch := watch.Chan[[]byte](ctx, w)
		for b.Loop() {
			fill()
			for range burst {
				if r := <-ch; r.Err != nil {
					b.Fatal(r.Err)
				}
			}
		}
		cancel()
		for range ch { // until it is closed
		}
	})
}
