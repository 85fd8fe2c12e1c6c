//! What makes the layout rules of this crate errors of compilation instead of habits.

/// Declares a `#[repr(C)]` struct with its size and the offset of each field, and refuses to compile if one of them is
/// different or if there is padding. With the feature `user` it also implements `aya::Pod`.
macro_rules! abi_struct {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal {
            $( $(#[$fmeta:meta])* pub $field:ident: $ty:ty = $offset:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }

        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size, concat!("size of ", stringify!($name)));
            assert!(
                0 $( + core::mem::size_of::<$ty>() )* == $size,
                concat!("padding in ", stringify!($name))
            );
            $( assert!(
                core::mem::offset_of!($name, $field) == $offset,
                concat!("offset of ", stringify!($name), ".", stringify!($field))
            ); )*
        };

        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]
        // SAFETY: repr(C), Copy, 'static, made of integers only, and without padding (asserted above), so every
        // byte is initialised and every bit pattern is a value.
        unsafe impl aya::Pod for $name {}

        #[cfg(feature = "user")]
        impl crate::layout::Described for $name {
            const FIELDS: &'static [crate::layout::Field] = &[ $( crate::layout::Field {
                name: stringify!($field),
                offset: $offset,
                size: core::mem::size_of::<$ty>(),
                inner: <$ty as crate::layout::Described>::FIELDS,
            }, )* ];
        }

        #[cfg(feature = "user")]
        impl $name {
            /// A copy of the value whose bytes these are, as a ring buffer or a file hands them out; `None` unless
            /// there are exactly as many as the type has.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                #![expect(unsafe_code, reason = "a plain old value is read from bytes")]
                if bytes.len() != core::mem::size_of::<Self>() {
                    return None;
                }
                // SAFETY: the length was checked, the read may be unaligned, and every bit pattern is a value.
                Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
            }
        }
    };
}

/// [`abi_struct`] for what holds addresses of either length: `A` is [`crate::Addr4`] or [`crate::Addr6`], and size and
/// offsets are given for both.
macro_rules! abi_struct_wide {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $short:literal / $long:literal {
            $( $(#[$fmeta:meta])* pub $field:ident: $ty:ty = $at:literal / $far:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name<A = crate::addr::Addr4> {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }

        const _: () = {
            type A = crate::addr::Addr4;
            assert!(core::mem::size_of::<$name<A>>() == $short, concat!("size of ", stringify!($name)));
            assert!(0 $( + core::mem::size_of::<$ty>() )* == $short, concat!("padding in ", stringify!($name)));
            $( assert!(
                core::mem::offset_of!($name<A>, $field) == $at,
                concat!("offset of ", stringify!($name), ".", stringify!($field))
            ); )*
        };
        const _: () = {
            type A = crate::addr::Addr6;
            assert!(core::mem::size_of::<$name<A>>() == $long, concat!("size of long ", stringify!($name)));
            assert!(0 $( + core::mem::size_of::<$ty>() )* == $long, concat!("padding in long ", stringify!($name)));
            $( assert!(
                core::mem::offset_of!($name<A>, $field) == $far,
                concat!("offset of long ", stringify!($name), ".", stringify!($field))
            ); )*
        };
        #[cfg(feature = "user")]
        const _: () = {
            type A = crate::addr::Addr4;
            impl crate::layout::Described for $name<A> {
                const FIELDS: &'static [crate::layout::Field] = &[ $( crate::layout::Field {
                    name: stringify!($field),
                    offset: $at,
                    size: core::mem::size_of::<$ty>(),
                    inner: <$ty as crate::layout::Described>::FIELDS,
                }, )* ];
            }
        };
        #[cfg(feature = "user")]
        const _: () = {
            type A = crate::addr::Addr6;
            impl crate::layout::Described for $name<A> {
                const FIELDS: &'static [crate::layout::Field] = &[ $( crate::layout::Field {
                    name: stringify!($field),
                    offset: $far,
                    size: core::mem::size_of::<$ty>(),
                    inner: <$ty as crate::layout::Described>::FIELDS,
                }, )* ];
            }
        };

        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]
        // SAFETY: see `abi_struct`; size and padding are asserted above for this address.
        unsafe impl aya::Pod for $name<crate::addr::Addr4> {}
        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]
        // SAFETY: see `abi_struct`; size and padding are asserted above for this address.
        unsafe impl aya::Pod for $name<crate::addr::Addr6> {}
    };
}

/// Declares a fieldless enum whose variants have one name for metrics, the command line and the page.
macro_rules! named_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$vmeta:meta])* $variant:ident = $value:literal => $text:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[$vmeta])* $variant = $value, )*
        }

        impl $name {
            /// Every variant, in numeric order.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];
            /// Number of slots an array indexed by this enum needs.
            pub const SLOTS: u32 = Self::ALL.len() as u32;
            const _CONTIGUOUS: () = {
                let mut i = 0;
                while i < Self::ALL.len() {
                    assert!(Self::ALL[i] as usize == i, concat!("gap in ", stringify!($name)));
                    i += 1;
                }
            };

            /// The one name: metric label, command line and page.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }

            /// The variant with this number, if there is one.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $( $value => Some(Self::$variant), )* _ => None }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use {abi_struct, abi_struct_wide, named_enum};
