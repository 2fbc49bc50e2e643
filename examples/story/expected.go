package story

import (
	_ "embed"
	"regexp"
)

// Expected is what Tell prints on every store, with revisions masked.
//
//go:embed testdata/story.txt
var Expected string

var revision = regexp.MustCompile(`revision \d+`)

// MaskRevisions replaces what differs from store to store.
func MaskRevisions(out string) string { return revision.ReplaceAllString(out, "revision N") }
