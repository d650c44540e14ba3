// A growing array of plain values whose memory is counted in a pool: positions, scores, summaries,
// page tables. Growth is by a sixteenth, so that what is counted stays close to what is used, and
// in place where the system can (realloc).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "kv/page_pool.h"

namespace pith {

template <class T>
class CountedArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  CountedArray() = default;
  CountedArray(PagePool& pool, MemoryClass what) : pool_(&pool), what_(what) {}
  CountedArray(CountedArray&& other) noexcept { *this = std::move(other); }
  CountedArray& operator=(CountedArray&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(what_, other.what_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    return *this;
  }
  ~CountedArray() { clear(); }
  CountedArray clone() const {
    CountedArray copy(*pool_, what_);
    if (size_ > 0) copy.set_capacity(size_);
    copy.append(span());
    return copy;
  }

  size_t size() const { return size_; }
  size_t capacity() const { return capacity_; }
  size_t bytes() const { return capacity_ * sizeof(T); }  // as counted in the pool
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  const T& back() const { return data_[size_ - 1]; }
  std::span<T> span() { return {data_, size_}; }
  std::span<const T> span() const { return {data_, size_}; }

  // What holding `size` elements would add to bytes(); never falls as size grows.
  size_t growth(size_t size) const { return (capacity_for(size) - capacity_) * sizeof(T); }
  // Makes room for `size` elements in all; the caller has asked for growth(size).
  void hold(size_t size) {
    if (size > capacity_) set_capacity(capacity_for(size));
  }
  void push_back(T value) {
    hold(size_ + 1);
    data_[size_++] = value;
  }
  // New elements are not set.
  std::span<T> extend(size_t count) {
    hold(size_ + count);
    size_ += count;
    return {data_ + size_ - count, count};
  }
  void append(std::span<const T> values) {
    if (!values.empty()) std::copy(values.begin(), values.end(), extend(values.size()).data());
  }
  void truncate(size_t size) { size_ = std::min(size_, size); }
  // Gives spare room back if there is much of it; not after each row, as rows come and go.
  void fit() {
    if (capacity_ > size_ + 2 * step(size_)) set_capacity(size_);
  }
  void clear() {
    size_ = 0;
    set_capacity(0);
  }

 private:
  static size_t step(size_t size) { return std::max<size_t>(16, size / 16); }
  size_t capacity_for(size_t size) const {
    return size <= capacity_ ? capacity_ : std::max(size, capacity_ + step(capacity_));
  }
  void set_capacity(size_t capacity) {
    if (capacity == capacity_) return;
    T* data = nullptr;
    if (capacity > 0) {
      data = static_cast<T*>(std::realloc(data_, capacity * sizeof(T)));
      if (data == nullptr) throw std::bad_alloc();
    } else {
      std::free(data_);
    }
    data_ = data;
    if (capacity > capacity_)
      pool_->charge((capacity - capacity_) * sizeof(T), what_);
    else
      pool_->refund((capacity_ - capacity) * sizeof(T), what_);
    capacity_ = capacity;
  }

  PagePool* pool_ = nullptr;
  MemoryClass what_ = MemoryClass::lanes;
  T* data_ = nullptr;
  size_t size_ = 0, capacity_ = 0;
};

}  // namespace pith
