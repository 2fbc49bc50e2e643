package embedded_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/memkv"
)

// looks is a context that counts how often it is asked whether it has ended. A goroutine that waits under it, is woken for
// nothing and waits again asks anew.
type looks struct {
	context.Context
	n *atomic.Int64
}

func (l looks) Done() <-chan struct{} { l.n.Add(1); return l.Context.Done() }
func (l looks) Err() error            { l.n.Add(1); return l.Context.Err() }

// TestReleaseWakesOne: of many that wait for a lock, a release wakes the next, and nobody else (R30).
func TestReleaseWakesOne(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) backend.Store{
		"memory": func(*testing.T) backend.Store { return memkv.New(memkv.Options{}) },
		"bolt": func(t *testing.T) backend.Store {
			db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			return boltkv.New(db, boltkv.Options{Root: "r"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t)
				defer s.Close()
				const clients = 100
				var queue [clients]backend.Contender
				var asked [clients]atomic.Int64
				admitted := make(chan int, clients)
				for i := range queue {
					c, err := s.Contend(t.Context(), "l", backend.ContendOptions{Lease: time.Hour})
					if err != nil {
						t.Fatal(err)
					}
					queue[i] = c
					go func() {
						if err := c.Wait(looks{t.Context(), &asked[i]}); err != nil {
							t.Errorf("client %d: %v", i, err)
						}
						admitted <- i
					}()
				}
				synctest.Wait() // until each waits, or holds
				if first := <-admitted; first != 0 {
					t.Fatalf("client %d holds, and was not the first", first)
				}
				for i := range clients - 1 {
					var before [clients]int64
					for j := range asked {
						before[j] = asked[j].Load()
					}
					if err := queue[i].Release(t.Context()); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					select {
					case got := <-admitted:
						if got != i+1 {
							t.Errorf("the release of client %d admitted %d", i, got)
						}
					default:
						t.Fatalf("the release of client %d admitted nobody", i)
					}
					var others []int
					for j := range asked {
						if j != i+1 && asked[j].Load() != before[j] {
							others = append(others, j)
						}
					}
					if len(others) > 0 || len(admitted) > 0 {
						t.Fatalf("the release of client %d woke %d and admitted %d besides the next", i, len(others), len(admitted))
					}
				}
				if err := queue[clients-1].Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
