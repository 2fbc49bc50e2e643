package boltkv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/polykv/kv/backend"
)

// fault is an error of the file: nothing of the transaction may be kept.
type fault struct{ err error }

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// classify gives an error of bbolt or of the file system its sentinel. Nothing
// was applied.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if f := (*fault)(nil); errors.As(err, &f) {
		err = f.err
	}
	for _, c := range []struct{ err, sentinel error }{
		{backend.ErrCorrupt, nil},
		{backend.ErrNewerSchema, nil},
		{backend.ErrClosed, nil},
		{backend.ErrInvalid, nil},
		{backend.ErrHistoryLost, nil},
		{context.Canceled, nil},
		{context.DeadlineExceeded, nil},
		{berrors.ErrDatabaseNotOpen, backend.ErrClosed},
		{berrors.ErrDatabaseReadOnly, backend.ErrPermission},
		{fs.ErrPermission, backend.ErrPermission},
		{berrors.ErrInvalid, backend.ErrCorrupt},
		{berrors.ErrVersionMismatch, backend.ErrCorrupt},
		{berrors.ErrChecksum, backend.ErrCorrupt},
		{berrors.ErrIncompatibleValue, backend.ErrInvalid}, // a key where a bucket must be, or the reverse
	} {
		if errors.Is(err, c.err) {
			if c.sentinel == nil {
				return err
			}
			return backend.Because(c.sentinel, err)
		}
	}
	return backend.Because(backend.ErrUnavailable, err)
}

// rescue turns a panic of bbolt's, which finds damaged pages that way, into an
// error. It is deferred.
func rescue(err *error) {
	if p := recover(); p != nil {
		cause, ok := p.(error)
		if !ok {
			cause = fmt.Errorf("%v", p)
		}
		*err = backend.Because(backend.ErrCorrupt, cause)
	}
}
