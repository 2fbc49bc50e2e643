package consulkv_test

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
)

// Consul keeps a plain set bound to the session of the lease before it.
func TestPutOutlivesTheLeaseThatTheKeyHad(t *testing.T) {
	for _, c := range []struct {
		name string
		put  func(f *fixture, at backend.Revision) backend.Revision
	}{
		{"unconditional", func(f *fixture, _ backend.Revision) backend.Revision {
			return f.put("k", "mine", backend.PutOptions{}).Revision
		}},
		{"at a revision", func(f *fixture, at backend.Revision) backend.Revision {
			return f.put("k", "mine", backend.PutOptions{If: backend.AtRevision, Revision: at}).Revision
		}},
		{"if present", func(f *fixture, _ backend.Revision) backend.Revision {
			return f.put("k", "mine", backend.PutOptions{If: backend.Present}).Revision
		}},
		{"in a transaction", func(f *fixture, _ backend.Revision) backend.Revision {
			r, err := f.s.Commit(f.Context(), backend.Txn{Writes: []backend.Write{{Key: "k", Value: []byte("mine")}, {Key: "other"}}})
			f.noErr(err)
			for _, e := range r.Entries {
				if e.Revision != r.Revision {
					f.Errorf("%q has revision %d in a transaction of revision %d", e.Key, e.Revision, r.Revision)
				}
			}
			return r.Revision
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := setUp(t)
			l, err := f.s.Register(f.Context(), "k", []byte("theirs"), backend.RegisterOptions{TTL: time.Second})
			f.noErr(err)
			rev := c.put(f, l.Entry().Revision)
			p, _, err := f.kv.KV().Get(f.root+"/k", nil)
			f.noErr(err)
			if p.Session != "" || p.ModifyIndex != uint64(rev) {
				t.Fatalf("session %q, index %d; want none, %d", p.Session, p.ModifyIndex, rev)
			}
			f.wantErr(l.Renew(f.Context()), backend.ErrLeaseLost)
			f.noErr(l.Release(f.Context()))
			e, err := f.s.Get(f.Context(), "k", backend.GetOptions{})
			f.noErr(err)
			if string(e.Value) != "mine" || e.Revision != rev {
				t.Errorf("%q at %d, want mine at %d", e.Value, e.Revision, rev)
			}
		})
	}
}

// A put by another program leaves the key with the session; the registrant sets
// it free when it notices.
func TestForeignPutOutlivesTheLease(t *testing.T) {
	f := setUp(t)
	l, err := f.s.Register(f.Context(), "k", []byte("ours"), backend.RegisterOptions{})
	f.noErr(err)
	_, err = f.kv.KV().Put(&api.KVPair{Key: f.root + "/k", Value: []byte("theirs")}, nil)
	f.noErr(err)
	f.noErr(l.Release(f.Context()))
	p, _, err := f.kv.KV().Get(f.root+"/k", nil)
	f.noErr(err)
	if p == nil || p.Session != "" || string(p.Value) != "theirs" {
		t.Errorf("after Release: %+v", p)
	}
}

// A reply that is lost must cost neither the lease nor the value.
func TestLeaseWithALostReply(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	l, err := f.s.Register(ctx, "k", []byte("1"), backend.RegisterOptions{})
	f.noErr(err)
	f.net.loseOnce("/v1/txn")
	_, err = l.Set(ctx, []byte("2"))
	f.wantErr(err, backend.ErrUncertain)
	f.noErr(l.Renew(ctx))
	e, err := l.Set(ctx, []byte("3"))
	f.noErr(err)
	got, err := f.s.Get(ctx, "k", backend.GetOptions{})
	f.noErr(err)
	if string(got.Value) != "3" || got.Revision != e.Revision {
		t.Errorf("%q at %d, want 3 at %d", got.Value, got.Revision, e.Revision)
	}
	f.net.loseOnce("/v1/txn")
	_, err = l.Set(ctx, []byte("4"))
	f.wantErr(err, backend.ErrUncertain)
	f.noErr(l.Release(ctx))
	_, err = f.s.Get(ctx, "k", backend.GetOptions{})
	f.wantErr(err, backend.ErrNotFound)
}

// A Release beside a Set that is under way leaves no key, and none without a session least of all: nobody would ever
// delete it.
func TestReleaseBesideASet(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	l, err := f.s.Register(ctx, "k", []byte("1"), backend.RegisterOptions{})
	f.noErr(err)
	applied, released, set := make(chan struct{}), make(chan struct{}), make(chan struct{})
	hold := func(r *http.Request) error {
		if r.URL.Path == "/v1/txn" {
			f.net.lose.Store(nil)
			close(applied)
			<-released
		}
		return nil
	}
	f.net.lose.Store(&hold)
	go func() {
		defer close(set)
		l.Set(ctx, []byte("2"))
	}()
	<-applied
	f.noErr(l.Release(ctx))
	close(released)
	<-set
	p, _, err := f.kv.KV().Get(f.root+"/k", nil)
	f.noErr(err)
	if p != nil {
		t.Errorf("left is %+v", p)
	}
}

// An agent repeats a request while there is no leader, so a Set whose reply was lost may be applied after a Renew has
// looked.
func TestSetThatIsAppliedLate(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	l, err := f.s.Register(ctx, "k", []byte("1"), backend.RegisterOptions{})
	f.noErr(err)
	var late string
	hold := func(r *http.Request) error {
		if r.URL.Path != "/v1/txn" {
			return nil
		}
		f.net.fail.Store(nil)
		body, err := io.ReadAll(r.Body)
		f.noErr(err)
		late = string(body)
		httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{})
		return io.ErrUnexpectedEOF
	}
	f.net.fail.Store(&hold)
	_, err = l.Set(ctx, []byte("2"))
	f.wantErr(err, backend.ErrUncertain)
	f.noErr(l.Renew(ctx))
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+f.addr+"/v1/txn", strings.NewReader(late))
	f.noErr(err)
	resp, err := f.net.client(t).Do(req)
	f.noErr(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	f.noErr(l.Renew(ctx))
	_, err = l.Set(ctx, []byte("3"))
	f.noErr(err)
	f.noErr(l.Release(ctx))
	_, err = f.s.Get(ctx, "k", backend.GetOptions{})
	f.wantErr(err, backend.ErrNotFound)
}

// A session that somebody ends before the key is bound to it ends the call, too.
func TestSessionThatEndsAtOnce(t *testing.T) {
	f := setUp(t)
	ctx, cancel := f.soon()
	defer cancel()
	end := func(r *http.Request) error {
		if r.URL.Path != "/v1/txn" {
			return nil
		}
		f.net.fail.Store(nil)
		all, _, err := f.kv.Session().List(nil)
		f.noErr(err)
		for _, one := range all {
			_, err := f.kv.Session().Destroy(one.ID, nil)
			f.noErr(err)
		}
		return nil
	}
	for _, absent := range []bool{false, true} {
		f.net.fail.Store(&end)
		_, err := f.s.Register(ctx, "k", nil, backend.RegisterOptions{Absent: absent})
		f.wantErr(err, backend.ErrUnavailable)
	}
}
