package rediskv_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// TestExpiryOfWhatIsGone takes from keys with a TTL what the server or another program may take from them: the value, the
// record, or both. When they are due nothing of them is left in the list of expiries, which would otherwise be looked at
// each second for ever, and hold up the keys behind them; what was written meanwhile stays.
func TestExpiryOfWhatIsGone(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root})
	ctx := t.Context()
	w := watching(t, s, "last", backend.WatchOptions{}) // without which nobody has to look
	const ttl = 5 * time.Second
	var gone []string
	begun, stalls := time.Now(), pace.Watch(t)
	expiring := func(key string) {
		put(t, s, key, "v", backend.PutOptions{TTL: ttl})
	}
	take := func(names ...string) {
		t.Helper()
		if n, err := other.Del(ctx, names...).Result(); err != nil || n != int64(len(names)) {
			t.Fatalf("DEL of %q: %d, %v", names, n, err)
		}
	}
	value := func(key string) string { return root + "/" + key }
	record := func(key string) string { return root + "=kv/key/" + key }
	const many = 4 * backend.MaxTxnOps // more than are looked at at once
	for range many / backend.MaxTxnOps {
		var txn backend.Txn
		var both []string
		for i := range backend.MaxTxnOps {
			key := fmt.Sprint("gone/", len(gone)+i)
			txn.Writes = append(txn.Writes, backend.Write{Key: key, TTL: ttl})
			both = append(both, value(key), record(key))
		}
		if _, err := s.Commit(ctx, txn); err != nil {
			t.Fatal(err)
		}
		gone = append(gone, both...)
	}
	take(gone...)
	expiring("value")
	take(value("value"))
	for _, key := range []string{"kept", "again", "later", "read"} {
		expiring(key)
	}
	other.Persist(ctx, value("kept"))
	other.Persist(ctx, value("read"))
	take(record("kept"), record("read"))
	if _, err := s.Get(ctx, "read", backend.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	take(value("again"), record("again"), value("later"), record("later"))
	put(t, s, "again", "v2", backend.PutOptions{})
	e := put(t, s, "later", "v2", backend.PutOptions{TTL: time.Hour})
	put(t, s, "last/key", "v", backend.PutOptions{TTL: ttl})
	last := time.Now()
	if n := other.ZCard(ctx, root+"=kv/expiries").Val(); n < many {
		t.Fatalf("%d expiries after %v: this machine is too slow for this test", n, time.Since(begun))
	}

	for ev := next(t, w); ev.Kind != backend.Deleted; {
		ev = next(t, w)
	}
	if late := time.Since(last) - ttl; late > s.Capabilities().TTLSlack+stalls.Since(last) {
		t.Errorf("a key that expires after them is deleted %v late", late)
	}
	eventually(t, "what is gone leaves the expiries", func() bool {
		return other.ZCard(ctx, root+"=kv/expiries").Val() == 1
	})
	if due := other.ZScore(ctx, root+"=kv/expiries", "later").Val(); int64(due) != e.Expires.UnixMilli() {
		t.Errorf("the key that was put again is due at %v, not %v", int64(due), e.Expires.UnixMilli())
	}
	if names, err := other.ZRange(ctx, root+"=kv/keys", 0, -1).Result(); err != nil || fmt.Sprint(names) != "[again kept later read]" {
		t.Errorf("keys in the index: %q, %v", names, err)
	}
	for key, want := range map[string]string{"again": "v2", "later": "v2", "kept": "v", "read": "v"} {
		if got, err := s.Get(ctx, key, backend.GetOptions{}); err != nil || string(got.Value) != want {
			t.Errorf("%s is %q, %v", key, got.Value, err)
		}
	}
}
