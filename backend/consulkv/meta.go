package consulkv

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/polykv/kv/backend"
)

// schemaVersion is what this library writes in the bookkeeping.
const schemaVersion = 1

// checkSchema refuses bookkeeping of a later version of this library, and marks
// it with this one's if there is none.
func (s *Store) checkSchema(ctx context.Context) error {
	if s.schema.Load() {
		return nil
	}
	name := s.space.Meta() + "/version"
	f, ok, err := s.get(ctx, name, consistent)
	if err != nil {
		return err
	}
	if !ok {
		mark := []byte(strconv.Itoa(schemaVersion))
		if _, err := s.apply(ctx, []txnOp{checkAbsent(name), {kvOp{Verb: verbSet, Key: name, Value: mark}}}); err != nil {
			return err
		}
	} else {
		v, err := strconv.Atoi(strings.TrimSpace(string(f.value)))
		switch {
		case err != nil || v < 1:
			return fmt.Errorf("%w: the version at %q is not a number", backend.ErrCorrupt, name)
		case v > schemaVersion:
			return fmt.Errorf("%w: version %d at %q, this library knows %d", backend.ErrNewerSchema, v, name, schemaVersion)
		}
	}
	s.schema.Store(true)
	return nil
}
