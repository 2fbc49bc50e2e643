package boltkv_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// R12: a list is not older than what a Get has told before, also while the write that it told of is on its way to the
// watchers.
func TestListAfterGet(t *testing.T) {
	ctx := t.Context()
	s, err := openURL(ctx, "bolt://"+filepath.Join(t.TempDir(), "kv.db")+"?nosync=true", boltkv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Put(ctx, "d/k", fmt.Append(nil, i, n), backend.PutOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3000 {
		got, err := s.Get(ctx, "d/k", backend.GetOptions{})
		if err != nil && got.Revision == 0 {
			continue // not there yet
		}
		for e, err := range s.List(ctx, "d", backend.ListOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Revision < got.Revision {
				t.Fatalf("the list has revision %d after a Get of %d", e.Revision, got.Revision)
			}
		}
	}
}
