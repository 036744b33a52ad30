package vm

import (
	"strings"
	"sync"

	"switchyard/hostsim/abi"
)

// Shared data and queues (Proxy-Wasm 0.2.1, "Shared Key-Value Store", "Shared
// queues"): one store for all VMs of an engine, as Envoy has one per process.

type sharedKey struct{ vmID, name string }

type sharedValue struct {
	data string
	cas  uint32
}

type sharedQueue struct {
	items     []string
	unheard   int  // items that the listener has not been told of
	notifying bool // a goroutine tells it
	// The root context that hears about new items: that of the VM which
	// registered the queue last.
	group   *group
	worker  int
	context uint32
}

// sharedStore holds shared data and queues. Its methods may be called by any
// number of VMs at a time.
type sharedStore struct {
	mu        sync.Mutex
	bytes     int
	cas       uint32 // the last one given
	token     uint32 // the last one given
	data      map[sharedKey]sharedValue
	tokens    map[sharedKey]uint32
	queues    map[uint32]*sharedQueue
	listeners sync.WaitGroup
}

func newSharedStore() *sharedStore {
	return &sharedStore{
		data:   make(map[sharedKey]sharedValue),
		tokens: make(map[sharedKey]uint32),
		queues: make(map[uint32]*sharedQueue),
	}
}

func (s *sharedStore) get(vmID, key string) (sharedValue, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.data[sharedKey{vmID, key}]
	return value, ok
}

// set stores a value. A cas of 0 always wins, and so does any cas for a key
// that is new.
func (s *sharedStore) set(vmID, key, data string, cas uint32) abi.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := sharedKey{vmID, key}
	old, ok := s.data[k]
	if ok && cas != 0 && cas != old.cas {
		return abi.StatusCasMismatch
	}
	grown := len(data) - len(old.data)
	if !ok {
		grown += len(key) + sharedOverhead
	}
	if s.bytes+grown > maxSharedBytes {
		return abi.StatusInternalFailure
	}
	s.bytes += grown
	s.cas++
	k.name = strings.Clone(key) // also where there is one: assigning to a map replaces the key too, and key is guest memory
	s.data[k] = sharedValue{strings.Clone(data), s.cas}
	return abi.StatusOK
}

// register returns the token of a queue, which it makes if there is none.
func (s *sharedStore) register(name string, c *hostContext) (uint32, abi.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := c.instance
	k := sharedKey{v.group.vmID, name}
	token, ok := s.tokens[k]
	if !ok {
		if s.bytes+len(name)+sharedOverhead > maxSharedBytes {
			return 0, abi.StatusInternalFailure
		}
		s.bytes += len(name) + sharedOverhead
		s.token++
		token = s.token
		k.name = strings.Clone(name)
		s.tokens[k] = token
		s.queues[token] = &sharedQueue{}
	}
	q := s.queues[token]
	q.group, q.worker, q.context = v.group, v.worker, c.root.id
	return token, abi.StatusOK
}

func (s *sharedStore) resolve(vmID, name string) (uint32, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token, ok := s.tokens[sharedKey{vmID, name}]
	return token, ok
}

// enqueue adds an item and tells the queue's listener about it, on another
// goroutine, because the listener's VM may be the one that calls.
func (s *sharedStore) enqueue(token uint32, data string) abi.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, ok := s.queues[token]
	if !ok {
		return abi.StatusNotFound
	}
	if s.bytes+len(data)+sharedOverhead > maxSharedBytes {
		return abi.StatusInternalFailure
	}
	s.bytes += len(data) + sharedOverhead
	q.items = append(q.items, strings.Clone(data))
	q.unheard++
	if !q.notifying {
		q.notifying = true
		s.listeners.Go(func() { s.notify(token) })
	}
	return abi.StatusOK
}

// notify calls the queue's listener once for each item that came in.
func (s *sharedStore) notify(token uint32) {
	for {
		s.mu.Lock()
		q, ok := s.queues[token]
		if !ok || q.unheard == 0 {
			if ok {
				q.notifying = false
			}
			s.mu.Unlock()
			return
		}
		q.unheard--
		g, worker, context := q.group, q.worker, q.context
		s.mu.Unlock()
		g.queueReady(worker, context, token)
	}
}

func (s *sharedStore) dequeue(token uint32) (string, abi.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, ok := s.queues[token]
	switch {
	case !ok:
		return "", abi.StatusNotFound
	case len(q.items) == 0:
		return "", abi.StatusEmpty
	}
	item := q.items[0]
	q.items[0] = ""
	q.items = q.items[1:]
	s.bytes -= len(item) + sharedOverhead
	return item, abi.StatusOK
}

// forget drops all that belongs to vmID. It is called when the last VM with
// that id is gone.
func (s *sharedStore) forget(vmID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, value := range s.data {
		if k.vmID == vmID {
			s.bytes -= len(k.name) + len(value.data) + sharedOverhead
			delete(s.data, k)
		}
	}
	for k, token := range s.tokens {
		if k.vmID == vmID {
			for _, item := range s.queues[token].items {
				s.bytes -= len(item) + sharedOverhead
			}
			s.bytes -= len(k.name) + sharedOverhead
			delete(s.queues, token)
			delete(s.tokens, k)
		}
	}
}

func proxyGetSharedData(v *instance, stack []uint64) abi.Status {
	key, ok := v.readString(stack[0], stack[1])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	value, ok := v.group.engine.shared.get(v.group.vmID, key)
	if !ok {
		return abi.StatusNotFound
	}
	if status := v.give(value.data, stack[2], stack[3]); status != abi.StatusOK {
		return status
	}
	if !v.writeUint32(stack[4], value.cas) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

func proxySetSharedData(v *instance, stack []uint64) abi.Status {
	key, ok1 := v.readString(stack[0], stack[1])
	data, ok2 := v.readString(stack[2], stack[3])
	if !ok1 || !ok2 {
		return abi.StatusInvalidMemoryAccess
	}
	return v.group.engine.shared.set(v.group.vmID, key, data, uint32(stack[4]))
}

func proxyRegisterSharedQueue(v *instance, stack []uint64) abi.Status {
	name, ok := v.readString(stack[0], stack[1])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	token, status := v.group.engine.shared.register(name, v.context())
	if status != abi.StatusOK {
		return status
	}
	if !v.writeUint32(stack[2], token) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

func proxyResolveSharedQueue(v *instance, stack []uint64) abi.Status {
	vmID, ok1 := v.readString(stack[0], stack[1])
	name, ok2 := v.readString(stack[2], stack[3])
	if !ok1 || !ok2 {
		return abi.StatusInvalidMemoryAccess
	}
	if vmID == "" {
		vmID = v.group.vmID
	}
	token, ok := v.group.engine.shared.resolve(vmID, name)
	if !ok {
		return abi.StatusNotFound
	}
	if !v.writeUint32(stack[4], token) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

func proxyEnqueueSharedQueue(v *instance, stack []uint64) abi.Status {
	data, ok := v.readString(stack[1], stack[2])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	return v.group.engine.shared.enqueue(uint32(stack[0]), data)
}

func proxyDequeueSharedQueue(v *instance, stack []uint64) abi.Status {
	item, status := v.group.engine.shared.dequeue(uint32(stack[0]))
	if status != abi.StatusOK {
		return status
	}
	return v.give(item, stack[1], stack[2])
}
