package zookeeperkv

import (
	"errors"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

var (
	errNoAnswer = errors.New("no answer from ZooKeeper within the dial timeout")
	errLost     = errors.New("connection to ZooKeeper lost before the answer came")
)

// outcome turns an error of the client's into one of package backend, and tells whether the request may be repeated:
// because it was never sent or certainly not applied, or because it only reads.
func outcome(e effect, err error) (retry bool, _ error) {
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, zk.ErrNoServer), // flushed from the queue before it was sent
		errors.Is(err, zk.ErrSessionMoved): // "operation is ignored"
		return true, backend.Because(backend.ErrUnavailable, err)
	case answered(err):
		return false, sentinel(err)
	}
	// What is left is a connection that broke with the request in it, or perhaps before.
	if e == writes {
		return false, backend.Because(backend.ErrUncertain, err)
	}
	return true, backend.Because(backend.ErrUnavailable, err)
}

// abandoned is the error of a request that was sent and whose answer nobody waits for any more.
func abandoned(e effect, cause error) error {
	switch {
	case e == writes:
		return backend.Because(backend.ErrUncertain, cause)
	case cause == errNoAnswer:
		return backend.Because(backend.ErrUnavailable, cause)
	}
	return cause
}

// refusals are the answers by which a server says that it did not do as it was asked.
var refusals = []error{
	zk.ErrNoNode, zk.ErrNodeExists, zk.ErrBadVersion, zk.ErrNotEmpty, zk.ErrNoAuth, zk.ErrAuthFailed,
	zk.ErrNoChildrenForEphemerals, zk.ErrInvalidACL, zk.ErrInvalidPath, zk.ErrInvalidFlags, zk.ErrBadArguments,
	zk.ErrAPIError, zk.ErrShortBuffer,
}

func answered(err error) bool {
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

// sentinel adds the sentinel for refusals that mean the same wherever they occur. The others (no node, version
// conflict) stay as they are for the caller to judge.
func sentinel(err error) error {
	switch {
	case errors.Is(err, zk.ErrNoAuth), errors.Is(err, zk.ErrAuthFailed), errors.Is(err, zk.ErrInvalidACL):
		return backend.Because(backend.ErrPermission, err)
	case errors.Is(err, zk.ErrInvalidPath):
		return backend.Because(backend.ErrInvalidKey, err)
	case errors.Is(err, zk.ErrShortBuffer):
		return backend.Because(backend.ErrTooLarge, err)
	case errors.Is(err, zk.ErrNoChildrenForEphemerals), errors.Is(err, zk.ErrInvalidFlags),
		errors.Is(err, zk.ErrBadArguments), errors.Is(err, zk.ErrAPIError):
		return backend.Because(backend.ErrInvalid, err)
	}
	return err
}

// moved reports an answer that says that somebody else was faster: look again and try again.
func moved(err error) bool {
	return errors.Is(err, zk.ErrNoNode) || errors.Is(err, zk.ErrNodeExists) || errors.Is(err, zk.ErrBadVersion) ||
		errors.Is(err, zk.ErrNotEmpty)
}

// unanswered is the error of a call that asks for no write, err being that of a write of the store's own on the way: its
// lost reply leaves nothing uncertain.
func unanswered(err error) error {
	switch {
	case errors.Is(err, backend.ErrClosed):
		return backend.ErrClosed
	case errors.Is(err, errNoAnswer):
		return backend.Because(backend.ErrUnavailable, errNoAnswer)
	case errors.Is(err, backend.ErrUncertain):
		return backend.Because(backend.ErrUnavailable, errLost)
	}
	return err
}

func isUnavailable(err error) bool { return errors.Is(err, backend.ErrUnavailable) }

func isConflict(err error) bool { return errors.Is(err, backend.ErrConflict) }
