package prove

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// usage is what is held at one moment, in numbers by name.
type usage map[string]int

// SoakResult is what was held after the warm-up and at the end.
type SoakResult struct {
	Cycles      int
	Late        int // how many of them were cut short because an answer came late
	First, Last usage
}

func (r SoakResult) String() string {
	if r.First == nil {
		return ""
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(r.First)) {
		words = append(words, fmt.Sprintf("%s %d → %d", name, r.First[name], r.Last[name]))
	}
	late := ""
	if r.Late > 0 {
		late = fmt.Sprintf(" (%d cut short by a late answer)", r.Late)
	}
	return fmt.Sprintf("%d cycles%s: %s", r.Cycles, late, strings.Join(words, ", "))
}

// slack is by how much a number may grow without being a leak: what is made and gone again by itself is not always gone
// when it is looked at.
func slack(name string, first int) int {
	switch name {
	case "heap KiB":
		return first/2 + 4096
	case "keys", "nodes", "leases", "sessions":
		return 10 + first/10
	}
	return 5 + first/5
}

// soakPace is the time between cycles. What is held shows by their number, and the stores that need no server leave the
// others some of the processor.
const soakPace = 50 * time.Millisecond

// soakLease is long enough for a machine that is busy with something else to renew it: to lose one is not what is measured.
const soakLease = 10 * time.Second

// Soak lets long-lived clients do everything that leaves something behind somewhere, again and again, and compares what
// is held after each cycle with what was held after the first ones.
func Soak(ctx context.Context, t *Target, d time.Duration) (res SoakResult, err error) {
	var links []*link
	defer func() {
		for _, l := range links {
			err = errors.Join(err, l.Close())
		}
	}()
	for i := range 3 {
		l, err := t.connect(ctx, i)
		if err != nil {
			return res, err
		}
		links = append(links, l)
	}
	// Watches that stay make every client do what it does in the background.
	for _, l := range links {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := l.Watch(ctx, "soak")
		if err != nil {
			return res, err
		}
		done := make(chan struct{})
		defer func() { <-done }()
		defer cancel()
		go func() {
			defer close(done)
			for {
				if _, err := w.Next(ctx); err != nil {
					return
				}
			}
		}()
	}
	const warmUp = 0.2
	var samples []usage
	begun := time.Now()
	warm := 0
	for time.Since(begun) < d || len(samples) < 6 {
		select {
		case <-ctx.Done():
			return res, ctx.Err()
		case <-time.After(soakPace):
		}
		for i, l := range links {
			err := cycle(ctx, l.Store, i)
			if late(err) && ctx.Err() == nil && res.Late <= res.Cycles/100 {
				res.Late++
				continue
			}
			if err != nil {
				return res, fmt.Errorf("cycle %d, %d late before: %w", res.Cycles, res.Late, err)
			}
		}
		res.Cycles++
		u, err := t.measure(ctx, links)
		if err != nil {
			return res, err
		}
		samples = append(samples, u)
		if time.Since(begun).Seconds() < d.Seconds()*warmUp {
			warm = len(samples)
		}
	}
	samples = samples[min(warm, len(samples)-4):]
	// The least of several tells of what stays.
	res.First, res.Last = least(samples[:len(samples)/2]), least(samples[len(samples)/2:])
	for name, first := range res.First {
		if last := res.Last[name]; last > first+slack(name, first) {
			err = errors.Join(err, fmt.Errorf("%s grew from %d to %d in %d cycles", name, first, last, res.Cycles))
			if name == "goroutines" {
				err = errors.Join(err, errors.New(goroutines()))
			}
		}
	}
	return res, err
}

// goroutines tells what most goroutines are doing.
func goroutines() string {
	var b strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil { // the most frequent first
		return err.Error()
	}
	stacks := strings.Split(b.String(), "\n\n")
	return strings.Join(stacks[:min(8, len(stacks))], "\n\n")
}

func least(samples []usage) usage {
	out := maps.Clone(samples[0])
	for _, s := range samples[1:] {
		for name, n := range s {
			out[name] = min(out[name], n)
		}
	}
	return out
}

// late reports whether an answer came too late, which is what happens to a store while the machine is busy with something
// else: one in a hundred cycles may end so. Whatever that left has to go by itself.
func late(err error) bool {
	return errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrUncertain) || errors.Is(err, context.DeadlineExceeded)
}

// cycle uses everything once and leaves nothing.
func cycle(ctx context.Context, s *kv.Store, who int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	dir := fmt.Sprintf("soak/%d", who)
	for i := range 20 {
		if _, err := s.Put(ctx, fmt.Sprintf("%s/k%d", dir, i), []byte("value")); err != nil {
			return err
		}
	}
	if _, err := s.Put(ctx, dir+"/ttl", nil, kv.TTL(time.Second)); err != nil {
		return err
	}
	w, err := s.Watch(ctx, dir, kv.FromSnapshot())
	if err != nil {
		return err
	}
	defer w.Close()
	for range 5 {
		if _, err := w.Next(ctx); err != nil {
			return err
		}
	}
	reg, err := s.Register(ctx, dir+"/registered", nil, soakLease)
	if err != nil {
		return err
	}
	if err := reg.Release(ctx); err != nil {
		return err
	}
	if err := lock.Do(ctx, s, "soak", func(ctx context.Context, h *lock.Held) error {
		_, err := s.Put(ctx, dir+"/fenced", nil, kv.If(h.Check()))
		return err
	}, lock.Lease(soakLease)); err != nil {
		return err
	}
	ended, end := context.WithCancel(ctx)
	end()
	if _, err := s.Get(ended, dir+"/k0"); err == nil {
		return errors.New("a call with an ended context succeeded")
	}
	if _, err := kv.Collect(s.List(ctx, dir, kv.Limit(3))); err != nil {
		return err
	}
	_, err = s.DeletePrefix(ctx, dir)
	return err
}

// measure counts what is held here and at the server.
func (t *Target) measure(ctx context.Context, links []*link) (usage, error) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{"goroutines": runtime.NumGoroutine(), "heap KiB": int(m.HeapAlloc >> 10)}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil { // Linux
		u["files"] = len(fds)
	}
	if t.server != nil {
		for _, l := range links {
			u["connections"] += l.net.connections()
		}
	}
	if t.usage == nil {
		return u, nil
	}
	at, err := t.usage(ctx)
	if err != nil {
		return nil, fmt.Errorf("what the server holds: %w", err)
	}
	maps.Copy(u, at)
	return u, nil
}
