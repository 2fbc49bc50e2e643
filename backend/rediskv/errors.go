package rediskv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
)

// refused are the codes with which a server turns a request down without having looked at it. go-redis has functions for
// most of them; a code is the first word of a reply, as the protocol has it.
var refused = []string{"BUSY", "UNKILLABLE", "OOM", "MISCONF", "NOREPLICAS", "MOVED", "ASK"}

// classify names the sentinel for an error that is not the context's.
func classify(err error) error {
	switch {
	case redis.IsPermissionError(err), redis.IsAuthError(err):
		return backend.ErrPermission
	case errors.Is(err, redis.ErrClosed):
		return backend.ErrClosed
	case redis.IsLoadingError(err), redis.IsReadOnlyError(err), redis.IsMasterDownError(err), redis.IsClusterDownError(err),
		redis.IsTryAgainError(err), redis.IsMaxClientsError(err), redis.IsOOMError(err):
		return backend.ErrUnavailable
	}
	for _, code := range refused {
		if redis.HasErrorPrefix(err, code) {
			return backend.ErrUnavailable
		}
	}
	return nil
}

// contextError is backend.ContextError at a time when a connection may know of the end first: a client with
// ContextTimeoutEnabled gives it the context's deadline, and has a timer of its own for it.
func contextError(ctx context.Context) error {
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		<-ctx.Done()
	}
	return backend.ContextError(ctx)
}

func readError(ctx context.Context, err error) error {
	if errors.Is(err, backend.ErrClosed) || errors.Is(err, backend.ErrUnavailable) {
		return err
	}
	if ended := contextError(ctx); ended != nil {
		return ended
	}
	if sentinel := classify(err); sentinel != nil {
		return backend.Because(sentinel, err)
	}
	return backend.Because(backend.ErrUnavailable, err)
}

// writeError says of a write that failed whether it may have been applied: not if it was never sent, nor if the
// server refused it.
func writeError(ctx context.Context, sent bool, err error) error {
	if !sent {
		return readError(ctx, err)
	}
	if sentinel := classify(err); sentinel != nil && !errors.Is(err, redis.ErrClosed) {
		return backend.Because(sentinel, err)
	}
	if ended := contextError(ctx); ended != nil {
		err = ended
	}
	return backend.Because(backend.ErrUncertain, err)
}

// failure turns the first word of a script's reply into an error. ok and what a script defines for itself are nil.
func failure(reply []any) error {
	switch status(reply) {
	case "schema":
		version, _ := reply[1].(string)
		return fmt.Errorf("%w: the bookkeeping has schema %s, this library knows %s", backend.ErrNewerSchema, version, schema)
	case "":
		return fmt.Errorf("%w: a script gave an answer without a status", backend.ErrCorrupt)
	}
	return nil
}

func status(reply []any) string {
	if len(reply) == 0 {
		return ""
	}
	word, _ := reply[0].(string)
	return word
}
