package zookeeperkv

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// R27: a transaction that deletes a key which is not there is one step as well. If somebody makes the key before it is
// committed, it goes.
func TestDeleteOfAbsentKeyIsOneStep(t *testing.T) {
	ctx := t.Context()
	root := testserver.UniqueName(t)
	a, b := open(t, shared(t), root, Options{}), open(t, shared(t), root, Options{})
	for i := range 100 {
		k, other := fmt.Sprintf("d%d/k", i), fmt.Sprintf("d%d/other", i)
		var made backend.Entry
		var gone backend.TxnResult
		var errMade, errGone error
		var wg sync.WaitGroup
		wg.Go(func() { made, errMade = b.Put(ctx, k, []byte("v"), backend.PutOptions{}) })
		wg.Go(func() {
			gone, errGone = a.Commit(ctx, backend.Txn{Writes: []backend.Write{{Key: k, Delete: true}, {Key: other, Value: []byte("v")}}})
		})
		wg.Wait()
		if errMade != nil || errGone != nil {
			t.Fatal(errMade, errGone)
		}
		_, err := b.Get(ctx, k, backend.GetOptions{})
		if there := err == nil; there != (made.Revision > gone.Revision) || err != nil && !errors.Is(err, backend.ErrNotFound) {
			t.Fatalf("made at %d, deleted at %d: %v", made.Revision, gone.Revision, err)
		}
	}
}
