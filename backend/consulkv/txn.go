package consulkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
)

// The verbs of /v1/txn that the Store uses.
const (
	verbSet          = string(api.KVSet)
	verbDelete       = string(api.KVDelete)
	verbDeleteTree   = string(api.KVDeleteTree)
	verbGet          = string(api.KVGet)
	verbGetOrEmpty   = string(api.KVGetOrEmpty)
	verbGetTree      = string(api.KVGetTree)
	verbLock         = string(api.KVLock)
	verbUnlock       = string(api.KVUnlock)
	verbCheckIndex   = string(api.KVCheckIndex)
	verbCheckAbsent  = string(api.KVCheckNotExists)
	verbCheckSession = string(api.KVCheckSession)
)

// txnOp is one operation as /v1/txn reads it. api.TxnOp would spell out every
// empty field, at the cost of the value that fits.
type txnOp struct{ KV kvOp }

type kvOp struct {
	Verb    string
	Key     string
	Value   []byte `json:",omitempty"`
	Flags   uint64 `json:",omitempty"`
	Index   uint64 `json:",omitempty"`
	Session string `json:",omitempty"`
}

// conditional reports whether the operation can fail because of what is in the
// store. Any other fails for lack of a right only.
func (o kvOp) conditional() bool {
	switch o.Verb {
	case verbSet, verbDelete, verbDeleteTree, verbGetTree, verbGetOrEmpty:
		return false
	}
	return true
}

// outcome is what a transaction did: the state of each key that it wrote, or
// the operations that failed and so kept it from doing anything.
type outcome struct {
	pairs  []api.KVPair
	failed []int
}

// ok reports whether the transaction was applied.
func (o outcome) ok() bool { return len(o.failed) == 0 }

// firstFailed is the operation that failed first.
func (o outcome) firstFailed() int {
	first := o.failed[0]
	for _, i := range o.failed {
		first = min(first, i)
	}
	return first
}

// of is the last state of name in the results.
func (o outcome) of(name string) api.KVPair {
	for i := len(o.pairs) - 1; i >= 0; i-- {
		if o.pairs[i].Key == name {
			return o.pairs[i]
		}
	}
	return api.KVPair{}
}

// post sends a transaction without conditions. The caller reads the answer,
// which is a success.
func (s *Store) post(ctx context.Context, ops []txnOp, m mode, write bool) (*response, error) {
	resp, err := s.postAny(ctx, ops, m, write, false)
	if err == nil && resp.status != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.body, 4<<10))
		resp.close()
		return nil, backend.Because(backend.ErrPermission, errors.New(strings.TrimSpace(string(text))))
	}
	return resp, err
}

// postAny is post for callers that expect a conflict, which Consul answers
// with 409 and a body like that of a success.
func (s *Store) postAny(ctx context.Context, ops []txnOp, m mode, write, late bool) (*response, error) {
	body, err := json.Marshal(ops)
	if err != nil {
		return nil, backend.Because(backend.ErrInvalid, err)
	}
	if limit := s.o.maxBody(); len(body) > limit {
		return nil, fmt.Errorf("%w: the request has %d bytes, the limit is %d", backend.ErrTooLarge, len(body), limit)
	}
	if len(ops) > maxTxnOps {
		return nil, fmt.Errorf("%w: %d operations, the limit is %d", backend.ErrTooLarge, len(ops), maxTxnOps)
	}
	resp, err := s.send(ctx, request{method: http.MethodPut, path: "/v1/txn", query: string(m), body: body, write: write, late: late})
	if err != nil {
		return nil, err
	}
	if resp.status != http.StatusOK && resp.status != http.StatusConflict {
		err = resp.refused(write)
		resp.close()
		return nil, err
	}
	return resp, nil
}

// apply runs a transaction that writes. An operation that failed otherwise
// than by its condition is ErrPermission.
func (s *Store) apply(ctx context.Context, ops []txnOp) (outcome, error) {
	return s.run(ctx, ops, true, false)
}

func (s *Store) run(ctx context.Context, ops []txnOp, write, late bool) (outcome, error) {
	m := consistent
	if write {
		m = "" // Raft orders it
	}
	resp, err := s.postAny(ctx, ops, m, write, late)
	if err != nil {
		return outcome{}, err
	}
	defer resp.close()
	var reply struct {
		Results []struct{ KV *api.KVPair }
		Errors  api.TxnErrors
	}
	text, err := io.ReadAll(resp.body)
	if err != nil {
		return outcome{}, err
	}
	if err := json.Unmarshal(text, &reply); err != nil {
		sentinel := backend.ErrUnavailable
		if write {
			sentinel = backend.ErrUncertain
		}
		return outcome{}, backend.Because(sentinel, err)
	}
	if resp.status == http.StatusOK {
		o := outcome{pairs: make([]api.KVPair, 0, len(reply.Results))}
		for _, r := range reply.Results {
			if r.KV == nil {
				continue
			}
			o.pairs = append(o.pairs, *r.KV)
			s.saw(r.KV.ModifyIndex)
		}
		return o, nil
	}
	o := outcome{failed: make([]int, 0, len(reply.Errors))}
	for _, e := range reply.Errors {
		if e.OpIndex < 0 || e.OpIndex >= len(ops) || !ops[e.OpIndex].KV.conditional() {
			return outcome{}, backend.Because(backend.ErrPermission, errors.New(e.What))
		}
		o.failed = append(o.failed, e.OpIndex)
	}
	if len(o.failed) == 0 {
		return outcome{}, fmt.Errorf("%w: a conflict without a reason", backend.ErrUnavailable)
	}
	return o, nil
}

// Consul does not write what is there already: neither the index moves then,
// nor does a watcher wake, and two racers that compare and set the same value
// at the same index would both be told that they won. So each write of an
// existing key is two operations of one transaction: the first leaves flags
// that no entry ever keeps, so that the second one always changes something.
// Nobody sees the state in between.
func overwrite(ops []txnOp, name string, value []byte, flags uint64) []txnOp {
	return append(ops,
		txnOp{kvOp{Verb: verbSet, Key: name, Flags: scratch}},
		txnOp{kvOp{Verb: verbSet, Key: name, Value: value, Flags: flags}})
}

func checkIndex(name string, index uint64) txnOp {
	return txnOp{kvOp{Verb: verbCheckIndex, Key: name, Index: index}}
}

func checkAbsent(name string) txnOp { return txnOp{kvOp{Verb: verbCheckAbsent, Key: name}} }

// replace overwrites a key of which f is known. A key that a session owns is
// taken from it in the same step: it must not end with the session. That
// changes the entry in any case.
func replace(ops []txnOp, name string, value []byte, flags uint64, f fact) []txnOp {
	if f.session != "" {
		// The set only shows whether the token may write.
		return append(ops,
			txnOp{kvOp{Verb: verbSet, Key: name, Flags: scratch}},
			txnOp{kvOp{Verb: verbUnlock, Key: name, Session: f.session, Value: value, Flags: flags}})
	}
	return overwrite(ops, name, value, flags)
}

// permitted fails with ErrPermission if the token must not write name, and
// writes nothing. Of an operation with a condition Consul's answer does not tell
// which of the two it failed for; here the condition, which never holds, comes
// after an operation that has none.
func (s *Store) permitted(ctx context.Context, name string) error {
	_, err := s.run(ctx, []txnOp{{kvOp{Verb: verbSet, Key: name, Flags: scratch}}, checkIndex(name, math.MaxUint64)}, false, false)
	return err
}
