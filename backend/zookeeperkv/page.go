package zookeeperkv

import (
	"context"
	"slices"
)

const (
	// smallDirectory is of how many names a directory is read ahead, so that many small ones do not take a round trip each.
	smallDirectory = 256
	// heavyNode is how many bytes a node has on average from which on its Stat is asked for alone if the value is of no
	// use.
	heavyNode = 4 << 10
)

// fetch is a node that is read ahead.
type fetch struct {
	path string
	page *page // nil: it is not being read yet
	found
	names  []string // with listed, what is in the directory
	listed bool
}

// page is nodes that are read together.
type page struct {
	fetches []*fetch
	alone   bool // each node is asked for its Stat
	done    chan struct{}
	read    int  // of fetches: those that come after have to be read again
	size    int  // in bytes
	learned bool // size was looked at
}

// pages are those of one walk.
type pages struct {
	nodes int     // of the next page
	heavy bool    // nodes are heavyNode
	last  *page   // the latest
	open  []*page // that may still be read
}

// await waits until f, the next on the list, is read. Meanwhile the page after it is read, too.
func (w *walk) await(f *fetch) error {
	for {
		if f.page == nil {
			w.start()
		}
		if f.page == w.pages.last && (w.left == 0 || w.left > len(f.page.fetches)) {
			w.start()
		}
		<-f.page.done
		if w.learn(f.page); f.page != nil {
			return f.err
		}
	}
}

// start reads a page of the nodes that come. On the way it opens directories whose names are known.
func (w *walk) start() {
	n := w.pages.nodes
	if w.left > 0 {
		n = min(n, w.left)
	}
	p := &page{alone: w.pages.heavy, done: make(chan struct{})}
	for i := len(w.todo) - 1; i >= 0 && len(p.fetches) < n; i-- {
		f := w.todo[i].fetch
		if f.page == nil {
			f.page = p
			p.fetches = append(p.fetches, f)
		} else if w.todo[i].below() && f.page.finished() && f.listed {
			within := w.items(f.path, f.names)
			w.todo = slices.Replace(w.todo, i, i+1, within...)
			i += len(within)
		}
	}
	if len(p.fetches) > 0 {
		w.pages.last = p
		w.pages.open = append(slices.DeleteFunc(w.pages.open, (*page).finished), p)
		go w.read(p)
	}
}

// read is the goroutine of a page.
func (w *walk) read(p *page) {
	defer close(p.done)
	paths := make([]string, len(p.fetches))
	for i, f := range p.fetches {
		paths[i] = f.path
	}
	read := w.s.get
	if w.o.KeysOnly {
		read = w.s.head
	}
	var got []found
	got, p.size = w.s.readSome(w.ctx, paths, read, p.alone)
	p.read = len(got)
	var dirs []*fetch
	for i, f := range p.fetches[:p.read] {
		f.found = got[i]
		if n := f.stat.NumChildren; f.err == nil && !w.o.Children && 0 < n && n <= smallDirectory {
			dirs = append(dirs, f)
		}
	}
	w.name(dirs)
}

// name reads the names in directories. Of one that fails they are asked for again when the walk comes to it.
func (w *walk) name(dirs []*fetch) {
	if len(dirs) >= fewNodes && w.s.bulk.usable(w.ctx) {
		ops := make([]readOp, len(dirs))
		for i, f := range dirs {
			ops[i] = readOp{path: f.path, children: true}
		}
		if results, _, err := w.s.multiRead(w.ctx, w.s.link, ops); err == nil {
			for i, f := range dirs {
				f.names, f.listed = results[i].names, results[i].code == 0
			}
			return
		}
	}
	_ = parallel(w.ctx, len(dirs), func(ctx context.Context, i int) (err error) {
		f := dirs[i]
		f.names, f.listed, err = w.s.children(ctx, w.s.link, f.path)
		return err
	})
}

// learn looks at what a page has brought, and lets go what it could not take.
func (w *walk) learn(p *page) {
	if p.learned {
		return
	}
	p.learned = true
	for _, f := range p.fetches[p.read:] {
		f.page = nil
	}
	each := p.size/p.read + 1
	w.pages.nodes = max(fewNodes, min(pageNodes, w.s.o.MaxRequest/each))
	w.pages.heavy = w.pages.heavy || w.o.KeysOnly && each > heavyNode
}

func (p *page) finished() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait waits for the pages that nobody waited for.
func (p *pages) wait() {
	for _, q := range p.open {
		<-q.done
	}
}
