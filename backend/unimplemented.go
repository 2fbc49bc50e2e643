package backend

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Unimplemented answers errors.ErrUnsupported to every call that can fail. A
// driver embeds it and so keeps compiling when Store grows.
type Unimplemented struct{}

func unsupported(method string) error { return fmt.Errorf("%s: %w", method, errors.ErrUnsupported) }

func (Unimplemented) Get(context.Context, string, GetOptions) (Entry, error) {
	return Entry{}, unsupported("Get")
}

func (Unimplemented) GetMany(context.Context, []string, GetOptions) ([]Entry, error) {
	return nil, unsupported("GetMany")
}

func (Unimplemented) Put(context.Context, string, []byte, PutOptions) (Entry, error) {
	return Entry{}, unsupported("Put")
}

func (Unimplemented) Delete(context.Context, string, DeleteOptions) error {
	return unsupported("Delete")
}

func (Unimplemented) DeletePrefix(context.Context, string) (int64, error) {
	return 0, unsupported("DeletePrefix")
}

func (Unimplemented) List(context.Context, string, ListOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) { yield(Entry{}, unsupported("List")) }
}

func (Unimplemented) Watch(context.Context, string, WatchOptions) (Watch, error) {
	return nil, unsupported("Watch")
}

func (Unimplemented) Commit(context.Context, Txn) (TxnResult, error) {
	return TxnResult{}, unsupported("Commit")
}

func (Unimplemented) Register(context.Context, string, []byte, RegisterOptions) (Lease, error) {
	return nil, unsupported("Register")
}

func (Unimplemented) Contend(context.Context, string, ContendOptions) (Contender, error) {
	return nil, unsupported("Contend")
}

func (Unimplemented) Holders(context.Context, string) iter.Seq2[Holder, error] {
	return func(yield func(Holder, error) bool) { yield(Holder{}, unsupported("Holders")) }
}

func (Unimplemented) Adopt(context.Context, string) (int64, error) { return 0, nil }

func (Unimplemented) Capabilities() Capabilities { return Capabilities{} }

func (Unimplemented) Ping(context.Context) error { return unsupported("Ping") }

func (Unimplemented) Close() error { return nil }

func (Unimplemented) mustEmbedUnimplemented() {}

var _ Store = Unimplemented{}
